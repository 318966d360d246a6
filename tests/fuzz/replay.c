/* main() for fuzz targets built without libFuzzer: runs every file of the given files and folders once. Fails when
 * there was nothing to run, so that a lost corpus is noticed. */
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int n_run;
static const char *folder;

static void run_file(const char *path)
{
    uint8_t *data = NULL;
    size_t bytes = 0;
    if (sala_os_read_file(&data, &bytes, path, 0) != 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    n_run++;
}

static bool run_entry(void *user, const char *name)
{
    (void)user;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    run_file(path);
    return true;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (sala_os_is_dir(argv[i])) {
            folder = argv[i];
            sala_os_list_dir(folder, run_entry, NULL);
        } else {
            run_file(argv[i]);
        }
    }
    printf("%d inputs replayed\n", n_run);
    return n_run > 0 ? 0 : 1;
}
