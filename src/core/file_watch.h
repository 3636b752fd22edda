/* Tells when one of a set of files was written or replaced (inotify on their folders). */
#ifndef LAT_CORE_FILE_WATCH_H
#define LAT_CORE_FILE_WATCH_H
#include "core/poller.h"

struct lat_file_watch;

/* paths: NULL-terminated, absolute, copied. `changed` runs from the poller, once or more for a change. 0 or negative errno. */
int lat_file_watch_new(struct lat_poller *poller, const char *const *paths, void (*changed)(void *ctx), void *ctx,
	struct lat_file_watch **out);
void lat_file_watch_free(struct lat_file_watch *watch); /* NULL is fine */

#endif
