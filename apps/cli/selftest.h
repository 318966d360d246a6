/* The tiny model that 'sala selftest' takes through the whole path. */
#ifndef SALA_CLI_SELFTEST_H
#define SALA_CLI_SELFTEST_H

/* Writes it into a temporary folder, which a signal removes too. 0 or an exit code after an error message. */
int cli_selftest_model_make(const char **path);
void cli_selftest_model_remove(void);

#endif
