/* Folders are watched, not files: editors save by renaming a new file over the old one. See file_watch.h. */
#include "core/file_watch.h"
#include "base/mem.h"
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#define MAX_FILES 64

struct lat_file_watch {
	struct lat_poll_item item;
	struct lat_poller *poller;
	void (*changed)(void *ctx);
	void *ctx;
	size_t count;
	struct {
		int folder; /* watch descriptor */
		char *base;
	} files[MAX_FILES];
};

static void ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_file_watch *w = lat_container_of(item, struct lat_file_watch, item);
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(item->fd, buf, sizeof(buf));
	bool hit = false;

	(void)events;
	for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
		const struct inotify_event *e = (const struct inotify_event *)(buf + at);

		for (size_t i = 0; i < w->count && e->len; i++)
			hit = hit || (w->files[i].folder == e->wd && strcmp(w->files[i].base, e->name) == 0);
		hit = hit || (e->mask & IN_Q_OVERFLOW);
		at += (ssize_t)(sizeof(*e) + e->len);
	}
	if (hit)
		w->changed(w->ctx);
}

static int add(struct lat_file_watch *w, const char *path)
{
	const char *slash = strrchr(path, '/');
	lat_autofree char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	char *base = strdup(slash ? slash + 1 : path);
	int wd;

	if (!folder || !base || w->count == MAX_FILES) {
		free(base);
		return w->count == MAX_FILES ? -ENOSPC : -ENOMEM;
	}
	wd = inotify_add_watch(w->item.fd, folder, IN_CLOSE_WRITE | IN_MOVED_TO);
	if (wd < 0) {
		free(base);
		return -errno;
	}
	w->files[w->count].folder = wd;
	w->files[w->count++].base = base;
	return 0;
}

int lat_file_watch_new(struct lat_poller *poller, const char *const *paths, void (*changed)(void *ctx), void *ctx,
	struct lat_file_watch **out)
{
	struct lat_file_watch *w = calloc(1, sizeof(*w));
	int r = 0;

	if (!w)
		return -ENOMEM;
	w->poller = poller;
	w->changed = changed;
	w->ctx = ctx;
	w->item.ready = ready;
	w->item.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->item.fd < 0)
		r = -errno;
	for (size_t i = 0; r == 0 && paths[i]; i++)
		r = add(w, paths[i]);
	if (r == 0)
		r = lat_poller_add(poller, &w->item, EPOLLIN);
	if (r < 0) {
		lat_file_watch_free(w);
		return r;
	}
	*out = w;
	return 0;
}

void lat_file_watch_free(struct lat_file_watch *w)
{
	if (!w)
		return;
	lat_poller_del(w->poller, &w->item);
	for (size_t i = 0; i < w->count; i++)
		free(w->files[i].base);
	lat_close(&w->item.fd);
	free(w);
}
