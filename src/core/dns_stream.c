/* See dns_stream.h. A connection that is to end is only marked dead; it is freed where nothing
 * below it can be using it. */
#include "core/dns_stream.h"
#include "base/addr.h"
#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CONNS 64     /* at once */
#define OPEN 32	     /* unanswered queries of one connection: more wait unread */
#define MESSAGE 2048 /* longest query taken; an honest one is below 600 bytes */
#define UNSENT                                                                                     \
	(128u << 10) /* answers that a connection does not take: beyond this it is closed          \
		      */
#define IDLE_S 10
#define ACCEPTS 16 /* for each wake-up */

struct lat_dns_conn {
	struct lat_poll_item item;
	struct lat_dns_streams *streams;
	uint64_t used_ns;
	unsigned open; /* messages handed up and not answered */
	uint16_t sport;
	bool dead, busy, ended; /* busy: in on_ready, which frees; ended: the peer sends no more */
	size_t in_len, out_len, out_max;
	uint8_t *out;
	uint8_t in[2 + MESSAGE];
};

struct lat_dns_streams {
	struct lat_poll_item item;
	struct lat_poller *poller;
	const struct lat_dns_stream_hooks *hooks;
	struct lat_dns_conn *conns[CONNS];
};

static void conn_free(struct lat_dns_conn *c)
{
	struct lat_dns_streams *s = c->streams;

	for (size_t i = 0; i < CONNS; i++)
		if (s->conns[i] == c)
			s->conns[i] = NULL;
	s->hooks->gone(s->hooks->ctx, c);
	lat_poller_del(s->poller, &c->item);
	close(c->item.fd);
	free(c->out);
	free(c);
}

/* Waits for what can be done next; frees the connection if that is nothing. */
static void settle(struct lat_dns_conn *c)
{
	uint32_t events = (c->ended || c->open >= OPEN ? 0 : EPOLLIN) | (c->out_len ? EPOLLOUT : 0);

	if (c->ended && !c->open && !c->out_len)
		c->dead = true;
	if (!c->dead && lat_poller_change(c->streams->poller, &c->item, events) < 0)
		c->dead = true;
	if (c->dead)
		conn_free(c);
}

static void flush(struct lat_dns_conn *c)
{
	ssize_t n;

	if (!c->out_len)
		return;
	n = send(c->item.fd, c->out, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			c->dead = true;
		return;
	}
	memmove(c->out, c->out + n, c->out_len - (size_t)n);
	c->out_len -= (size_t)n;
	c->used_ns = lat_now_ns();
}

static bool queue(struct lat_dns_conn *c, const uint8_t *msg, size_t len)
{
	if (c->out_len + 2 + len > UNSENT)
		return false;
	if (c->out_len + 2 + len > c->out_max) {
		size_t max = c->out_len + 2 + len + 1024;
		uint8_t *out = realloc(c->out, max);

		if (!out)
			return false;
		c->out = out;
		c->out_max = max;
	}
	c->out[c->out_len] = (uint8_t)(len >> 8);
	c->out[c->out_len + 1] = (uint8_t)len;
	memcpy(c->out + c->out_len + 2, msg, len);
	c->out_len += 2 + len;
	return true;
}

/* Hands up the whole messages in the buffer, as far as the limit of open ones allows. */
static void messages(struct lat_dns_conn *c)
{
	const struct lat_dns_stream_hooks *hooks = c->streams->hooks;
	size_t at = 0;

	while (!c->dead && c->open < OPEN && c->in_len - at >= 2) {
		size_t len = (size_t)c->in[at] << 8 | c->in[at + 1];

		if (len > MESSAGE || len == 0) {
			c->dead = true;
			break;
		}
		if (c->in_len - at - 2 < len)
			break;
		c->open++;
		hooks->message(hooks->ctx, c, c->in + at + 2, len, c->sport);
		at += 2 + len;
	}
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
}

int lat_dns_conn_fd(const struct lat_dns_conn *c)
{
	return c->item.fd;
}

void lat_dns_conn_answer(struct lat_dns_conn *c, const uint8_t *msg, size_t len)
{
	c->open--;
	if (len == 0 || !queue(c, msg, len))
		c->dead = true;
	else
		flush(c);
	if (c->busy)
		return;
	c->busy = true;
	messages(c); /* what waited unread for this one */
	c->busy = false;
	settle(c);
}

static void on_conn(struct lat_poll_item *item, uint32_t events)
{
	struct lat_dns_conn *c = lat_container_of(item, struct lat_dns_conn, item);

	c->busy = true;
	if (events & (EPOLLERR | EPOLLHUP))
		c->dead = true;
	flush(c);
	messages(c); /* left over from when too many were open */
	if (!c->dead && !c->ended && c->open < OPEN && c->in_len < sizeof(c->in)) {
		ssize_t n = recv(
			c->item.fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);

		if (n > 0) {
			c->in_len += (size_t)n;
			c->used_ns = lat_now_ns();
			messages(c);
		} else if (n == 0) {
			c->ended = true;
		} else if (errno != EAGAIN && errno != EINTR) {
			c->dead = true;
		}
	}
	c->busy = false;
	settle(c);
}

/* A free place; if there is none, the one of the connection that has been quiet longest with
 * nothing open. */
static struct lat_dns_conn **place(struct lat_dns_streams *s)
{
	struct lat_dns_conn **quiet = NULL;

	for (size_t i = 0; i < CONNS; i++) {
		struct lat_dns_conn **at = &s->conns[i];

		if (!*at)
			return at;
		if (!(*at)->open && !(*at)->out_len &&
			(!quiet || (*at)->used_ns < (*quiet)->used_ns))
			quiet = at;
	}
	if (quiet)
		conn_free(*quiet);
	return quiet;
}

static void on_listener(struct lat_poll_item *item, uint32_t events)
{
	struct lat_dns_streams *s = lat_container_of(item, struct lat_dns_streams, item);

	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage from;
		socklen_t from_len = sizeof(from);
		struct lat_dns_conn **at, *c;
		struct lat_addr addr;
		int fd = accept4(item->fd, (struct sockaddr *)&from, &from_len,
			SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0) {
			/* Without descriptors the listener would be ready for ever: wait for a
			 * tick. */
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
				errno == ENOMEM)
				lat_poller_change(s->poller, item, 0);
			return;
		}
		at = place(s);
		c = at ? calloc(1, sizeof(*c)) : NULL;
		if (!c) {
			close(fd);
			continue;
		}
		c->streams = s;
		c->item = (struct lat_poll_item){.fd = fd, .ready = on_conn};
		c->used_ns = lat_now_ns();
		lat_addr_from_sockaddr((struct sockaddr *)&from, from_len, &addr, &c->sport);
		if (lat_poller_add(s->poller, &c->item, EPOLLIN) < 0) {
			close(fd);
			free(c);
			continue;
		}
		*at = c;
	}
}

int lat_dns_streams_new(struct lat_poller *poller, int listener,
	const struct lat_dns_stream_hooks *hooks, struct lat_dns_streams **out)
{
	lat_autofree struct lat_dns_streams *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->poller = poller;
	s->hooks = hooks;
	s->item = (struct lat_poll_item){.fd = listener, .ready = on_listener};
	if (fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK) < 0 ||
		listen(listener, CONNS) < 0)
		return -errno;
	r = lat_poller_add(poller, &s->item, EPOLLIN);
	if (r < 0)
		return r;
	*out = lat_take(&s);
	return 0;
}

void lat_dns_streams_free(struct lat_dns_streams *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < CONNS; i++)
		if (s->conns[i])
			conn_free(s->conns[i]);
	lat_poller_del(s->poller, &s->item);
	free(s);
}

void lat_dns_streams_tick(struct lat_dns_streams *s, uint64_t now_ns)
{
	lat_poller_change(s->poller, &s->item, EPOLLIN);
	for (size_t i = 0; i < CONNS; i++) {
		struct lat_dns_conn *c = s->conns[i];

		/* An open query has its own time limit; a peer that takes no answers has not. */
		if (c && (!c->open || c->out_len) && now_ns > c->used_ns + IDLE_S * LAT_NS_PER_SEC)
			conn_free(c);
	}
}
