/* See resolver.h. Each question has a channel of its own: a fresh source port and id, the host's
 * resolv.conf and hosts file as they are now, and nothing that a slow question could hold up. The
 * channel's sockets are uv_poll handles, its time-outs and the question's own deadline one
 * uv_timer.
 *
 * Life of a question: STARTED (asking) -> DONE (result is known, delivered by the timer on the next
 * turn of the loop, because a channel must not be destroyed from within its own callback) ->
 * CLOSING (handles close) -> freed with the last close. */
#include "loop/resolver.h"
#include "base/clock.h"
#include "base/mem.h"
#include "loop/answer.h"
#include <ares.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define TRY_MS 1500 /* first wait for a server; doubles with each round */
#define TRIES 2
#define DEADLINE_MS 4500 /* of a question in all: below the 5 s that stub resolvers wait */
#define EDNS_SIZE 1232
#define SOCKETS 16   /* of one question: each server's datagram and stream socket */
#define HOSTS_TTL 10 /* of an answer from the hosts file, which has none */

struct question;

struct watch {
	uv_poll_t poll;
	struct question *question;
	ares_socket_t fd; /* ARES_SOCKET_BAD: free slot */
};

struct question {
	struct question *next, **prev;
	struct lat_resolver *resolver;
	void (*done)(void *arg, const struct lat_resolved *result);
	void *arg;
	ares_channel channel;
	uv_timer_t timer;
	struct watch *watches[SOCKETS];
	uint64_t deadline_ns;
	int handles; /* open libuv handles; the last close frees */
	int family;
	bool finished, closing;
	bool stream; /* asked over TCP from the start */
	bool again;  /* the answer over UDP may be forged: ask over TCP, from the timer */
	char name[254];
	char asked[254]; /* the name with the case of its letters at random (0x20): a forger has to
			    guess it */
	struct lat_resolved result;
};

struct lat_resolver {
	uv_loop_t *loop;
	struct question *questions;
};

static void drop_handle(struct question *q)
{
	if (--q->handles == 0)
		free(q);
}

static void timer_closed(uv_handle_t *handle)
{
	drop_handle(lat_container_of(handle, struct question, timer));
}

static void watch_closed(uv_handle_t *handle)
{
	struct watch *w = lat_container_of(handle, struct watch, poll);
	struct question *q = w->question;

	free(w);
	drop_handle(q);
}

static void on_timer(uv_timer_t *timer);

static void deliver_soon(struct question *q, int status)
{
	if (q->finished)
		return;
	q->finished = true;
	q->result.status = status;
	if (!q->closing)
		uv_timer_start(&q->timer, on_timer, 0, 0);
}

/* The channel's next time-out or our deadline, whichever is first. */
static void rearm(struct question *q)
{
	uint64_t now = lat_now_ns(), left_ms;
	struct timeval max, buf, *tv;

	if (q->finished || q->again)
		return;
	left_ms = now >= q->deadline_ns ? 0 : (q->deadline_ns - now) / LAT_NS_PER_MS + 1;
	max.tv_sec = (time_t)(left_ms / 1000);
	max.tv_usec = (suseconds_t)(left_ms % 1000 * 1000);
	tv = ares_timeout(q->channel, &max, &buf);
	uv_timer_start(&q->timer, on_timer,
		(uint64_t)tv->tv_sec * 1000 + (uint64_t)tv->tv_usec / 1000 + 1, 0);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
	struct watch *w = lat_container_of(poll, struct watch, poll);
	struct question *q = w->question;
	ares_socket_t fd = w->fd;
	bool both = status < 0; /* an error shows itself in the read or write that follows */

	ares_process_fd(q->channel, both || (events & UV_READABLE) ? fd : ARES_SOCKET_BAD,
		both || (events & UV_WRITABLE) ? fd : ARES_SOCKET_BAD);
	rearm(q);
}

static void unwatch(struct question *q, size_t slot)
{
	struct watch *w = q->watches[slot];

	q->watches[slot] = NULL;
	uv_close((uv_handle_t *)&w->poll, watch_closed);
}

/* c-ares tells which events it waits for on a socket; neither: it is about to close it. */
static void on_socket(void *data, ares_socket_t fd, int readable, int writable)
{
	struct question *q = data;
	size_t slot = SOCKETS, empty = SOCKETS;

	for (size_t i = 0; i < SOCKETS; i++) {
		if (!q->watches[i])
			empty = i;
		else if (q->watches[i]->fd == fd)
			slot = i;
	}
	if (!readable && !writable) {
		if (slot < SOCKETS)
			unwatch(q, slot);
		return;
	}
	if (slot == SOCKETS) {
		struct watch *w = empty < SOCKETS ? calloc(1, sizeof(*w)) : NULL;

		if (!w || uv_poll_init_socket(q->resolver->loop, &w->poll, fd) < 0) {
			free(w); /* an unwatched socket is silence: the deadline ends the question
				  */
			return;
		}
		w->question = q;
		w->fd = fd;
		q->handles++;
		q->watches[slot = empty] = w;
	}
	uv_poll_start(&q->watches[slot]->poll,
		(readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0), on_ready);
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *msg, int len)
{
	struct question *q = arg;

	if (q->finished)
		return;
	if (msg && !q->stream && !lat_answer_echoes(msg, (size_t)len, q->asked)) {
		q->again = true;
		uv_timer_start(&q->timer, on_timer, 0, 0);
		return;
	}
	switch (status) {
	case ARES_SUCCESS:
		if (lat_answer_read(msg, (size_t)len, q->name, q->family, &q->result) == 0)
			deliver_soon(q, q->result.status);
		else
			deliver_soon(q, -EAGAIN);
		break;
	case ARES_ENODATA:
		deliver_soon(q, -ENODATA);
		break;
	case ARES_ENOTFOUND:
		deliver_soon(q, -ENOENT);
		break;
	case ARES_ETIMEOUT:
		deliver_soon(q, -ETIMEDOUT);
		break;
	case ARES_ECANCELLED:
	case ARES_EDESTRUCTION:
		deliver_soon(q, -ECANCELED);
		break;
	default:
		deliver_soon(q, -EAGAIN);
	}
}

static int open_channel(struct question *q)
{
	struct ares_options options = {
		.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | ARES_FLAG_EDNS |
			 (q->stream ? ARES_FLAG_USEVC : 0),
		.timeout = TRY_MS,
		.tries = TRIES,
		.ednspsz = EDNS_SIZE,
		.sock_state_cb = on_socket,
		.sock_state_cb_data = q,
	};
	int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_EDNSPSZ |
		   ARES_OPT_SOCK_STATE_CB | ARES_OPT_DOMAINS;

	switch (ares_init_options(&q->channel, &options, mask)) {
	case ARES_SUCCESS:
		return 0;
	case ARES_ENOMEM:
		return -ENOMEM;
	default:
		return -EAGAIN;
	}
}

static void send_query(struct question *q)
{
	ares_query(
		q->channel, q->asked, ns_c_in, q->family == 4 ? ns_t_a : ns_t_aaaa, on_answer, q);
}

/* The name server did not give the name back as it was asked: it folds case, or somebody else
 * answered. */
static void ask_again(struct question *q)
{
	ares_channel old = q->channel;

	q->again = false;
	q->stream = true;
	q->result.addr_count = q->result.cname_count = 0;
	if (open_channel(q) < 0) {
		q->channel = old;
		deliver_soon(q, -EAGAIN);
		return;
	}
	ares_destroy(old);
	send_query(q);
}

static void random_case(struct question *q)
{
	uint8_t bits[sizeof(q->name) / 8 + 1];

	strcpy(q->asked, q->name);
	if (getrandom(bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
		return;
	for (size_t i = 0; q->asked[i]; i++)
		if (q->asked[i] >= 'a' && q->asked[i] <= 'z' && (bits[i / 8] >> (i % 8) & 1))
			q->asked[i] = (char)(q->asked[i] - 'a' + 'A');
}

/* Ends the question: the channel with its sockets, then the handles; the callback is the last to
 * hear of it. */
static void finish(struct question *q)
{
	q->closing = true;
	*q->prev = q->next;
	if (q->next)
		q->next->prev = q->prev;
	ares_destroy(q->channel);
	uv_close((uv_handle_t *)&q->timer, timer_closed);
	q->done(q->arg, &q->result);
}

static void on_timer(uv_timer_t *timer)
{
	struct question *q = lat_container_of(timer, struct question, timer);

	if (!q->finished) {
		if (lat_now_ns() >= q->deadline_ns)
			deliver_soon(q, -ETIMEDOUT);
		else if (q->again)
			ask_again(q);
		else
			ares_process_fd(q->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	}
	if (q->finished)
		finish(q);
	else
		rearm(q);
}

/* Adds what the hosts file has of one family. Is the name there? */
static bool in_hosts(struct question *q, int family)
{
	struct hostent *host = NULL;

	if (ares_gethostbyname_file(q->channel, q->name, family == 4 ? AF_INET : AF_INET6, &host) !=
		ARES_SUCCESS)
		return false;
	for (char **a = host->h_addr_list; *a && q->result.addr_count < LAT_RESOLVE_MAX_ADDRS;
		a++) {
		struct lat_addr *addr = &q->result.addrs[q->result.addr_count].addr;

		if (family == 4)
			lat_addr_from4(addr, *a);
		else
			lat_addr_from6(addr, *a);
		if (family == q->family && lat_addr_is4(addr) == (family == 4))
			q->result.addrs[q->result.addr_count++].ttl = HOSTS_TTL;
	}
	ares_free_hostent(host);
	return true;
}

int lat_resolver_ask(struct lat_resolver *resolver, const char *name, int family,
	void (*done)(void *arg, const struct lat_resolved *result), void *arg)
{
	struct question *q;
	int r;

	if ((family != 4 && family != 6) || strlen(name) >= sizeof(q->name))
		return -EINVAL;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->resolver = resolver;
	q->family = family;
	q->done = done;
	q->arg = arg;
	q->deadline_ns = lat_now_ns() + DEADLINE_MS * LAT_NS_PER_MS;
	strcpy(q->name, name);
	random_case(q);
	r = open_channel(q);
	if (r < 0) {
		free(q);
		return r;
	}
	uv_timer_init(resolver->loop, &q->timer);
	q->handles = 1;
	q->next = resolver->questions;
	q->prev = &resolver->questions;
	if (q->next)
		q->next->prev = &q->next;
	resolver->questions = q;
	/* A name of the hosts file is asked of nobody, also not for its other family. */
	if (in_hosts(q, family) || in_hosts(q, family == 4 ? 6 : 4))
		deliver_soon(q, q->result.addr_count ? 0 : -ENODATA);
	else
		send_query(q);
	rearm(q);
	return 0;
}

int lat_resolver_new(uv_loop_t *loop, struct lat_resolver **out)
{
	struct lat_resolver *resolver;

	if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS)
		return -EIO;
	resolver = calloc(1, sizeof(*resolver));
	if (!resolver) {
		ares_library_cleanup();
		return -ENOMEM;
	}
	resolver->loop = loop;
	*out = resolver;
	return 0;
}

void lat_resolver_free(struct lat_resolver *resolver)
{
	if (!resolver)
		return;
	while (resolver->questions) {
		struct question *q = resolver->questions;

		q->result.status = -ECANCELED;
		q->result.addr_count = q->result.cname_count = 0;
		q->finished = true;
		finish(q);
	}
	free(resolver);
	ares_library_cleanup();
}
