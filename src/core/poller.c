/* See poller.h. */
#include "core/poller.h"
#include "base/mem.h"
#include <sys/epoll.h>

#define BATCH 64

struct lat_poller {
	int epfd;
	int fetched, next;          /* the batch being dispatched: events[next..fetched) are still to come */
	struct epoll_event events[BATCH];
};

int lat_poller_new(struct lat_poller **out)
{
	lat_autofree struct lat_poller *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (p->epfd < 0)
		return -errno;
	*out = lat_take(&p);
	return 0;
}

void lat_poller_free(struct lat_poller *p)
{
	if (!p)
		return;
	close(p->epfd);
	free(p);
}

int lat_poller_fd(const struct lat_poller *p)
{
	return p->epfd;
}

static int control(struct lat_poller *p, int op, struct lat_poll_item *item, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = item };

	if (epoll_ctl(p->epfd, op, item->fd, &ev) < 0)
		return -errno;
	item->events = events;
	return 0;
}

int lat_poller_add(struct lat_poller *p, struct lat_poll_item *item, uint32_t events)
{
	return control(p, EPOLL_CTL_ADD, item, events);
}

int lat_poller_change(struct lat_poller *p, struct lat_poll_item *item, uint32_t events)
{
	return item->events == events ? 0 : control(p, EPOLL_CTL_MOD, item, events);
}

int lat_poller_rearm(struct lat_poller *p, struct lat_poll_item *item)
{
	return control(p, EPOLL_CTL_MOD, item, item->events);
}

void lat_poller_del(struct lat_poller *p, struct lat_poll_item *item)
{
	if (item->fd >= 0)
		epoll_ctl(p->epfd, EPOLL_CTL_DEL, item->fd, NULL);
	lat_poller_forget(p, item);
}

void lat_poller_forget(struct lat_poller *p, struct lat_poll_item *item)
{
	for (int i = p->next; i < p->fetched; i++)
		if (p->events[i].data.ptr == item)
			p->events[i].data.ptr = NULL;
}

int lat_poller_dispatch(struct lat_poller *p, int budget, int timeout_ms)
{
	int ran = 0;

	p->fetched = epoll_wait(p->epfd, p->events, budget < BATCH ? budget : BATCH, timeout_ms);
	if (p->fetched < 0) {
		p->fetched = 0;
		return -errno;
	}
	for (p->next = 0; p->next < p->fetched;) {
		struct epoll_event *ev = &p->events[p->next++];
		struct lat_poll_item *item = ev->data.ptr;

		if (!item)
			continue;
		item->ready(item, ev->events);
		ran++;
	}
	p->fetched = p->next = 0;
	return ran;
}
