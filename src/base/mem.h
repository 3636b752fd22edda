/* Visible ownership: cleanup attributes and the words that move an owner. Never in a file that includes lua.h
 * (a Lua error jumps past cleanup handlers). */
#ifndef LAT_BASE_MEM_H
#define LAT_BASE_MEM_H
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static inline void lat_free_p(void *p)
{
	free(*(void **)p);
}

static inline void lat_close_p(int *fd)
{
	if (*fd >= 0) {
		int keep = errno;

		close(*fd);
		errno = keep;
	}
}

#define lat_autofree __attribute__((cleanup(lat_free_p)))
#define lat_autoclose __attribute__((cleanup(lat_close_p)))

/* Moves the owner out of *p: the value stays, *p becomes NULL (or -1). */
#define lat_take(p)                                                                                \
	({                                                                                         \
		__typeof__(p) lat_from_ = (p);                                                     \
		__typeof__(*lat_from_) lat_value_ = *lat_from_;                                    \
		*lat_from_ = NULL;                                                                 \
		lat_value_;                                                                        \
	})

static inline int lat_take_fd(int *fd)
{
	int value = *fd;

	*fd = -1;
	return value;
}

/* Closes *fd unless it is -1, and sets it to -1: calling twice is one close. */
static inline void lat_close(int *fd)
{
	lat_close_p(fd);
	*fd = -1;
}

#define LAT_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define lat_container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))

#endif
