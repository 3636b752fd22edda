/* A child process on a libuv loop: an argument vector (never a shell), text to its stdin, its stdout and stderr kept up to
 * a bound, and a time limit. Its environment is PATH of the system folders and what the caller adds. */
#ifndef LAT_LOOP_CHILD_H
#define LAT_LOOP_CHILD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct lat_child;

struct lat_child_spec {
	const char *const *argv;  /* ends with NULL; argv[0] is looked for in the system folders */
	const char *const *names; /* variables of our environment that the child gets too, ends with NULL; or NULL */
	const void *input;        /* copied */
	size_t input_len;
	size_t out_max;           /* bytes of stdout kept; more is an error (overflow), and the child is killed */
	uint32_t timeout_ms;      /* then it is killed */
};

struct lat_child_result {
	int error;     /* 0, or why its end is not its own: -ETIME, -EOVERFLOW, -ENOMEM */
	int status;    /* exit status */
	int signal;    /* that killed it, or 0 */
	const char *out, *err; /* end with a NUL; err: at most 4 KB of the beginning */
	size_t out_len, err_len;
};

/* Starts it. `done` runs on the loop, once, when it has ended and its output is read; then the child is freed. 0, or
 * negative errno (-ENOENT: no such program) without a call of done. */
int lat_child_start(uv_loop_t *loop, const struct lat_child_spec *spec,
	void (*done)(void *ctx, const struct lat_child_result *result), void *ctx, struct lat_child **out);
/* Before done: kills it, done is not called, the memory goes with the next turns of the loop. */
void lat_child_cancel(struct lat_child *child);

#endif
