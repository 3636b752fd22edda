/* See relay.h. Copying is here, splicing in relay_pipe.c.
 *
 * Edge-triggered reading: a read that filled less than the buffer has emptied the socket, and what comes later makes a new
 * event, so the read that would only say EAGAIN is left out; unless the end of the stream was announced, which shows only
 * in one more read. A direction that is blocked ignores events of its sender and reads on when the receiver has room. */
#include "core/relay.h"
#include "base/mem.h"
#include "core/relay_pipe.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>

/* Above this a direction counts as bulk. */
#define COPY_SIZE 16384
/* What one direction may move before others get their turn. */
#define TURN_BYTES (256u << 10)

struct lat_relays {
	struct lat_poller *poller;
	struct lat_pipes *pipes;
	char buf[COPY_SIZE];
};

int lat_relays_new(struct lat_poller *poller, struct lat_relays **out)
{
	lat_autofree struct lat_relays *rs = calloc(1, sizeof(*rs));
	struct sigaction pipe_action;
	int r;

	if (!rs)
		return -ENOMEM;
	/* Splice has no flag against it: one reader that is gone would end us. */
	if (sigaction(SIGPIPE, NULL, &pipe_action) == 0 && pipe_action.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
	r = lat_pipes_new(&rs->pipes);
	if (r < 0)
		return r;
	rs->poller = poller;
	*out = lat_take(&rs);
	return 0;
}

void lat_relays_free(struct lat_relays *rs)
{
	if (!rs)
		return;
	lat_pipes_free(rs->pipes);
	free(rs);
}

void lat_socket_reset_on_close(int fd)
{
	struct linger now = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

static void half_drop(struct lat_relay *r, struct lat_relay_half *h)
{
	free(h->stash);
	h->stash = NULL;
	if (h->pipe)
		lat_pipe_put(r->relays->pipes, h->pipe);
	h->pipe = NULL;
}

/* reset[i]: side i is told by RST. */
static void close_both(struct lat_relay *r, const bool reset[2])
{
	for (int i = 0; i < 2; i++) {
		half_drop(r, &r->half[i]);
		if (r->side[i].fd < 0)
			continue;
		if (reset[i])
			lat_socket_reset_on_close(r->side[i].fd);
		lat_poller_forget(r->relays->poller, &r->side[i]);
		lat_close(&r->side[i].fd);
	}
}

void lat_relay_abort(struct lat_relay *r)
{
	close_both(r, (bool[]){ true, true });
}

/* What a step of one direction says: go on, wait for an event, or a negative errno that ends the connection. */
enum { STEP_ON = 1, STEP_WAIT = 0 };

static int flush_stash(struct lat_relay_half *h, int to)
{
	while (h->stash) {
		ssize_t n = send(to, h->stash + h->stash_at, h->stash_size - h->stash_at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0) {
			h->blocked = errno == EAGAIN;
			h->broken = !h->blocked;
			return h->blocked ? STEP_WAIT : -errno;
		}
		h->stash_at += (uint32_t)n;
		h->bytes += (uint64_t)n;
		if (h->stash_at == h->stash_size) {
			free(h->stash);
			h->stash = NULL;
		}
	}
	h->blocked = false;
	return STEP_ON;
}

/* The urgent byte is read beside the stream when the stream has come to its mark, and leaves as the last byte of what was
 * sent so far: its place is kept. */
static int pass_urgent(struct lat_relay_half *h, int from, int to)
{
	char byte;
	int at_mark = 0;

	if (ioctl(from, SIOCATMARK, &at_mark) < 0 || !at_mark)
		return STEP_ON;
	if (recv(from, &byte, 1, MSG_OOB | MSG_DONTWAIT) != 1)
		return STEP_ON;
	h->urgent = false;
	h->bytes++;
	/* A full send buffer loses the urgency, never the order. */
	if (send(to, &byte, 1, MSG_OOB | MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		return STEP_ON;
	if (errno != EAGAIN) {
		h->broken = true;
		return -errno;
	}
	h->stash = malloc(1);
	if (!h->stash)
		return -ENOMEM;
	h->stash[0] = byte;
	h->stash_at = 0;
	h->stash_size = 1;
	h->bytes--;
	h->blocked = true;
	return STEP_WAIT;
}

static int copy_step(struct lat_relay *r, struct lat_relay_half *h, int from, int to)
{
	char *buf = r->relays->buf;
	ssize_t n, sent;
	int one = 1;

	if (h->urgent) {
		int s = pass_urgent(h, from, to);

		if (s != STEP_ON)
			return s;
	}
	n = recv(from, buf, COPY_SIZE, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? STEP_WAIT : errno == EINTR ? STEP_ON : -errno;
	if (n == 0) {
		h->ended = true;
		return STEP_ON;
	}
	/* One small message goes out at once in any case; whatever comes behind it would wait for its ACK (Nagle). */
	if (h->sends < 2 && (++h->sends == 2 || n == COPY_SIZE)) {
		setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		h->sends = 2;
	}
	sent = send(to, buf, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno != EAGAIN) {
		h->broken = true;
		return -errno;
	}
	if (sent < 0)
		sent = 0;
	h->bytes += (uint64_t)sent;
	if (sent < n) {
		h->stash = malloc((size_t)(n - sent));
		if (!h->stash)
			return -ENOMEM;
		memcpy(h->stash, buf + sent, (size_t)(n - sent));
		h->stash_at = 0;
		h->stash_size = (uint32_t)(n - sent);
		h->blocked = true;
		return STEP_WAIT;
	}
	if (n == COPY_SIZE && !h->urgent)
		h->pipe = lat_pipe_get(r->relays->pipes); /* NULL: copying goes on */
	h->small = 0;
	return n == COPY_SIZE || h->ending || h->urgent ? STEP_ON : STEP_WAIT;
}

static int splice_step(struct lat_relay *r, struct lat_relay_half *h, int from, int to)
{
	ssize_t n = 0;
	int s;

	if (!h->pipe->held && h->urgent) {
		half_drop(r, h);
		return STEP_ON;
	}
	s = lat_pipe_move(h->pipe, from, to, h, &n);
	h->bytes += (uint64_t)n;
	if (h->pipe->held)
		return s;
	h->small = n < COPY_SIZE ? h->small + 1 : 0;
	if (h->small >= LAT_PIPE_SMALL_MAX)
		half_drop(r, h);
	/* Urgent data stops a splice in front of its mark. */
	return s == STEP_WAIT && h->urgent && !h->blocked ? STEP_ON : s;
}

/* Moves what can be moved from side i to the other. 0, or a negative errno: the connection is broken. */
static int pump(struct lat_relay *r, int i)
{
	struct lat_relay_half *h = &r->half[i];
	int from = r->side[i].fd, to = r->side[!i].fd, s = STEP_ON;
	uint64_t until = h->bytes + TURN_BYTES;

	while (s == STEP_ON && !h->shut) {
		if (h->stash)
			s = flush_stash(h, to);
		else if (h->ended && !(h->pipe && h->pipe->held)) {
			/* The last one to end closes, which says FIN as well. */
			if (!r->half[!i].shut)
				shutdown(to, SHUT_WR);
			half_drop(r, h);
			h->shut = true;
		} else if (h->pipe)
			s = splice_step(r, h, from, to);
		else
			s = copy_step(r, h, from, to);
		if (h->blocked && !(r->side[!i].events & EPOLLOUT)) {
			/* It may have got room since: adding the event makes the kernel look. */
			lat_poller_change(r->relays->poller, &r->side[!i], LAT_RELAY_EVENTS | EPOLLOUT);
		}
		if (s == STEP_ON && h->bytes >= until) {
			lat_poller_rearm(r->relays->poller, &r->side[i]);
			return 0;
		}
	}
	return s < 0 ? s : 0;
}


/* Pumps side i and ends the relay if that was the last of it or broke it. true: the relay has ended and may be gone. */
static bool turn(struct lat_relay *r, int i)
{
	struct lat_relay_half *h = &r->half[i];
	bool reset[2] = { false, false };
	int err = pump(r, i), failed = h->broken ? !i : i;

	if (err == 0 && !(h->shut && r->half[!i].shut))
		return false;
	/* The receiver broke: what it had said before is still to be passed on. */
	if (h->broken && !r->half[!i].shut)
		pump(r, !i);
	/* The side that failed is closed already; the other is told. */
	reset[!failed] = err < 0;
	close_both(r, reset);
	r->ended(r, -err);
	return true;
}

/* Events of side i. */
static void handle(struct lat_relay *r, int i, uint32_t events)
{
	struct lat_relay_half *in = &r->half[i], *out = &r->half[!i];

	if (events & EPOLLPRI)
		in->urgent = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		in->ending = true;
	if ((events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && !in->blocked && turn(r, i))
		return;
	if (out->blocked && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
		turn(r, !i);
}

static void inside_ready(struct lat_poll_item *item, uint32_t events)
{
	handle(lat_container_of(item, struct lat_relay, side[0]), 0, events);
}

static void outside_ready(struct lat_poll_item *item, uint32_t events)
{
	handle(lat_container_of(item, struct lat_relay, side[1]), 1, events);
}

int lat_relay_start(struct lat_relays *rs, struct lat_relay *r, const int fds[2], const bool registered[2],
	uint32_t seen)
{
	r->relays = rs;
	for (int i = 0; i < 2; i++) {
		r->side[i].fd = fds[i];
		r->side[i].ready = i == 0 ? inside_ready : outside_ready;
	}
	for (int i = 0; i < 2; i++) {
		int err = registered[i] ? 0 : lat_poller_add(rs->poller, &r->side[i], LAT_RELAY_EVENTS);

		if (err < 0) {
			close_both(r, (bool[]){ true, true });
			return err;
		}
	}
	if (seen & ~(uint32_t)EPOLLOUT)
		handle(r, 1, seen);
	return 0;
}

void lat_relay_relax(struct lat_relay *r)
{
	for (int i = 0; i < 2; i++)
		if (r->half[i].pipe && !r->half[i].pipe->held)
			half_drop(r, &r->half[i]);
}
