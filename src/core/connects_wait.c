/* Calls that wait for their answer: see connects_parts.h. */
#include "core/connects_parts.h"
#include "base/clock.h"
#include "base/mem.h"
#include "core/unixpath.h"
#include "kernel/notify.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/time.h>

#define SWEEP_NS (100 * LAT_NS_PER_MS)
#define RETRY_NS (8 * LAT_NS_PER_MS)

int lat_connects_try(struct lat_connects *c, int fd, int type, const struct sockaddr_storage *to, socklen_t len,
	int file, bool *blocking)
{
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof(peer);
	int flags = fcntl(fd, F_GETFL), r;
	bool toggle;

	if (flags < 0)
		return -errno;
	*blocking = !(flags & O_NONBLOCK);
	/* Without a reason the mode is left alone: a datagram socket never waits here, a connected one (another thread may be
	 * reading from it) fails at once. */
	toggle = *blocking && type != SOCK_DGRAM && type != SOCK_RAW &&
		 getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0;
	if (toggle && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	lat_guard_enter(c->guard);
	if (file >= 0)
		r = lat_unix_connect(fd, file);
	else
		r = connect(fd, (const struct sockaddr *)to, len) < 0 ? -errno : 0;
	lat_guard_leave(c->guard);
	if (toggle)
		fcntl(fd, F_SETFL, flags);
	if (r == -EINTR)
		return file >= 0 ? -EAGAIN : -EINPROGRESS;
	return r;
}

static void drop_wait(struct lat_connects_wait *w)
{
	if (w->state == LAT_WAIT_FREE)
		return;
	lat_poller_del(w->owner->poller, &w->item);
	lat_close(&w->item.fd);
	lat_close(&w->file);
	w->state = LAT_WAIT_FREE;
	w->owner->busy--;
}

static void finish_wait(struct lat_connects_wait *w, int error)
{
	struct lat_connects *c = w->owner;
	uint64_t id = w->id;

	drop_wait(w); /* first, as in reply() */
	lat_connects_answer(c, id, error);
}

/* The duplicate has connected or failed. A second connect tells, and moves the socket to the state in which the caller
 * expects it after its own. */
static void wait_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_connects_wait *w = lat_container_of(item, struct lat_connects_wait, item);
	struct lat_connects *c = w->owner;
	bool blocking;
	int r;

	if (!lat_notify_valid(c->notify, w->id)) {
		c->stats.gone++;
		drop_wait(w);
		return;
	}
	r = lat_connects_try(c, w->item.fd, SOCK_STREAM, &w->address, w->len, -1, &blocking);
	if (r == -EALREADY || r == -EINPROGRESS)
		return;
	finish_wait(w, r == -EISCONN ? 0 : -r);
}

/* SO_SNDTIMEO bounds a blocking connect. */
static uint64_t deadline_of(int fd, uint64_t now_ns)
{
	struct timeval tv = { 0 };
	socklen_t n = sizeof(tv);

	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, &n) < 0 || (tv.tv_sec == 0 && tv.tv_usec == 0))
		return 0;
	return now_ns + (uint64_t)tv.tv_sec * LAT_NS_PER_SEC + (uint64_t)tv.tv_usec * 1000;
}

/* Not half done: the socket is as before the call. */
static void dissolve(int fd)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	connect(fd, &none, sizeof(none));
}

static struct lat_connects_wait *free_wait(struct lat_connects *c)
{
	for (size_t i = 0; i < LAT_CONNECTS_WAITS; i++)
		if (c->waits[i].state == LAT_WAIT_FREE)
			return &c->waits[i];
	return NULL;
}

/* Frees the waits whose callers are gone (signals, deaths) and ends those whose time is over. */
static void sweep(struct lat_connects *c, uint64_t now_ns)
{
	c->swept_ns = now_ns;
	for (size_t i = 0; i < LAT_CONNECTS_WAITS && c->busy; i++) {
		struct lat_connects_wait *w = &c->waits[i];

		if (w->state == LAT_WAIT_FREE)
			continue;
		if (!lat_notify_valid(c->notify, w->id)) {
			c->stats.gone++;
			drop_wait(w);
		} else if (w->deadline_ns && now_ns >= w->deadline_ns) {
			finish_wait(w, w->late_err);
		}
	}
}

void lat_connects_wait(struct lat_connects *c, struct lat_connects_request *q, enum lat_connects_wait_state state, int file, int late_err)
{
	uint64_t now = lat_now_ns();
	struct lat_connects_wait *w = free_wait(c);
	int r = 0;

	if (!w) {
		sweep(c, now);
		w = free_wait(c);
	}
	if (w) {
		w->owner = c;
		w->id = q->id;
		w->late_err = (uint8_t)late_err;
		w->deadline_ns = deadline_of(q->fd, now);
		w->asked = c->asked;
		w->type = q->type;
		w->len = q->len;
		w->address = q->address;
		w->item = (struct lat_poll_item){ .fd = q->fd, .ready = wait_ready };
		w->file = file;
		if (state == LAT_WAIT_EPOLL)
			r = lat_poller_add(c->poller, &w->item, EPOLLOUT);
		if (r == 0) {
			w->state = (uint8_t)state;
			c->busy++;
			q->fd = -1;
			return;
		}
	}
	lat_close(&file);
	if (state == LAT_WAIT_EPOLL)
		dissolve(q->fd);
	lat_connects_fail(c, q, ECONNREFUSED, "too many connects under way");
}

void lat_connects_answered(struct lat_connects *c, uint64_t id, int error)
{
	struct lat_connects_wait *w = NULL;
	bool blocking;
	int r;

	for (size_t i = 0; i < LAT_CONNECTS_WAITS && !w; i++)
		if (c->waits[i].state == LAT_WAIT_ASKED && c->waits[i].asked == id)
			w = &c->waits[i];
	if (!w)
		return;
	if (!lat_notify_valid(c->notify, w->id)) {
		c->stats.gone++;
		drop_wait(w);
		return;
	}
	if (error) {
		finish_wait(w, error);
		return;
	}
	r = lat_connects_try(c, w->item.fd, w->type, &w->address, w->len, -1, &blocking);
	if (!blocking || (r != -EINPROGRESS && r != -EALREADY)) {
		finish_wait(w, -r);
		return;
	}
	w->state = LAT_WAIT_EPOLL;
	w->late_err = (uint8_t)-r;
	r = lat_poller_add(c->poller, &w->item, EPOLLOUT);
	if (r < 0) {
		dissolve(w->item.fd);
		finish_wait(w, ECONNREFUSED);
	}
}

static void retry(struct lat_connects_wait *w)
{
	struct lat_connects *c = w->owner;
	bool blocking;
	int r;

	if (!lat_notify_valid(c->notify, w->id)) {
		c->stats.gone++;
		drop_wait(w);
		return;
	}
	r = lat_connects_try(c, w->item.fd, SOCK_STREAM, &w->address, w->len, w->file, &blocking);
	if (r != -EAGAIN)
		finish_wait(w, -r);
}

void lat_connects_tick(struct lat_connects *c, uint64_t now_ns)
{
	if (c->busy == 0)
		return;
	if (now_ns - c->swept_ns >= SWEEP_NS)
		sweep(c, now_ns);
	if (now_ns - c->retried_ns < RETRY_NS)
		return;
	c->retried_ns = now_ns;
	for (size_t i = 0; i < LAT_CONNECTS_WAITS && c->busy; i++)
		if (c->waits[i].state == LAT_WAIT_RETRY)
			retry(&c->waits[i]);
}

bool lat_connects_busy(const struct lat_connects *c)
{
	return c->busy > 0;
}

void lat_connects_init_waits(struct lat_connects *c)
{
	for (size_t i = 0; i < LAT_CONNECTS_WAITS; i++) {
		c->waits[i].owner = c;
		c->waits[i].item.fd = c->waits[i].file = -1;
	}
}

void lat_connects_end_waits(struct lat_connects *c)
{
	for (size_t i = 0; i < LAT_CONNECTS_WAITS; i++)
		if (c->waits[i].state != LAT_WAIT_FREE)
			finish_wait(&c->waits[i], ECONNREFUSED);
}
