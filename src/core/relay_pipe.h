/* Pipes for splice, kept for reuse: making one costs more than a short connection. */
#ifndef LAT_CORE_RELAY_PIPE_H
#define LAT_CORE_RELAY_PIPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lat_pipe {
	int in, out;
	size_t size; /* capacity, bytes */
	size_t held; /* bytes inside */
	struct lat_pipe *next;
};

/* So many small moves in a row, and a direction goes back to copying. */
#define LAT_PIPE_SMALL_MAX 16

struct lat_pipes;

int lat_pipes_new(struct lat_pipes **out);
void lat_pipes_free(struct lat_pipes *pipes);
/* NULL: no descriptor or no memory, or the bound on pipes is reached. */
struct lat_pipe *lat_pipe_get(struct lat_pipes *pipes);
/* A pipe that still holds bytes is closed. */
void lat_pipe_put(struct lat_pipes *pipes, struct lat_pipe *pipe);
/* Fills the pipe from `from` and empties it into `to`. 1: call again, 0: wait for an event, or a negative errno. Sets
 * half->blocked, ended and broken. *moved: bytes that `to` took. */
struct lat_relay_half;
int lat_pipe_move(struct lat_pipe *pipe, int from, int to, struct lat_relay_half *half, ssize_t *moved);

#endif
