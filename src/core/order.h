/* Puts named things into the order that their before/after words ask for; what is not bound by a word keeps its place. */
#ifndef LAT_CORE_ORDER_H
#define LAT_CORE_ORDER_H
#include <stddef.h>

struct lat_order_item {
	const char *name;
	const char *before; /* name of one that comes after this one, or NULL; a name that is not there binds nothing */
	const char *after;
};

#define LAT_ORDER_MAX 64

/* out: count indices. 0; -ELOOP: the words contradict each other; -E2BIG. */
int lat_order(const struct lat_order_item *items, size_t count, size_t *out);

#endif
