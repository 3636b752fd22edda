/* See relay_pipe.h. */
#include "core/relay_pipe.h"
#include "base/mem.h"
#include "core/relay.h"
#include <fcntl.h>

/* One pipe's capacity. The kernel grants an unprivileged user 64 MiB in pipes before it hands out small ones. */
#define PIPE_SIZE (256 << 10)
#define IDLE_MAX 16
#define PIPES_MAX 256

struct lat_pipes {
	struct lat_pipe *idle;
	unsigned idle_count, count;
};

int lat_pipes_new(struct lat_pipes **out)
{
	struct lat_pipes *ps = calloc(1, sizeof(*ps));

	if (!ps)
		return -ENOMEM;
	*out = ps;
	return 0;
}

static void pipe_close(struct lat_pipe *p)
{
	close(p->in);
	close(p->out);
	free(p);
}

void lat_pipes_free(struct lat_pipes *ps)
{
	if (!ps)
		return;
	while (ps->idle) {
		struct lat_pipe *p = ps->idle;

		ps->idle = p->next;
		pipe_close(p);
	}
	free(ps);
}

struct lat_pipe *lat_pipe_get(struct lat_pipes *ps)
{
	lat_autofree struct lat_pipe *p = NULL;
	int fds[2], size;

	if (ps->idle) {
		struct lat_pipe *idle = ps->idle;

		ps->idle = idle->next;
		ps->idle_count--;
		return idle;
	}
	if (ps->count >= PIPES_MAX)
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return NULL;
	size = fcntl(fds[1], F_SETPIPE_SZ, PIPE_SIZE);
	if (size < 0)
		size = fcntl(fds[1], F_GETPIPE_SZ);
	*p = (struct lat_pipe){ .out = fds[0], .in = fds[1], .size = size > 0 ? (size_t)size : 4096 };
	ps->count++;
	return lat_take(&p);
}

void lat_pipe_put(struct lat_pipes *ps, struct lat_pipe *p)
{
	if (p->held || ps->idle_count >= IDLE_MAX) {
		ps->count--;
		pipe_close(p);
		return;
	}
	p->next = ps->idle;
	ps->idle = p;
	ps->idle_count++;
}

int lat_pipe_move(struct lat_pipe *p, int from, int to, struct lat_relay_half *half, ssize_t *moved)
{
	bool empty = false;
	ssize_t n;

	*moved = 0;
	half->blocked = false;
	if (!half->ended && p->held < p->size) {
		n = splice(from, NULL, p->in, NULL, p->size - p->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n > 0)
			p->held += (size_t)n;
		else if (n == 0)
			half->ended = true;
		else if (errno == EAGAIN)
			empty = p->held == 0; /* with bytes inside, it may be the pipe that is full */
		else if (errno != EINTR)
			return -errno;
	}
	while (p->held) {
		n = splice(p->out, NULL, to, NULL, p->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			half->blocked = errno == EAGAIN;
			half->broken = !half->blocked;
			return half->blocked ? 0 : -errno;
		}
		if (n == 0) {
			half->broken = true;
			return -EPIPE;
		}
		p->held -= (size_t)n;
		*moved += n;
	}
	return empty ? 0 : 1;
}
