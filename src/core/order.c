/* See order.h: the first in the given order that waits for nobody is next. */
#include "core/order.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static bool is(const char *a, const char *b)
{
	return a && b && strcmp(a, b) == 0;
}

static bool comes_first(const struct lat_order_item *a, const struct lat_order_item *b)
{
	return is(a->before, b->name) || is(b->after, a->name);
}

int lat_order(const struct lat_order_item *items, size_t count, size_t *out)
{
	bool placed[LAT_ORDER_MAX] = { false };
	size_t order[LAT_ORDER_MAX], done;

	if (count > LAT_ORDER_MAX)
		return -E2BIG;
	for (done = 0; done < count; done++) {
		size_t next = 0;

		for (; next < count; next++) {
			bool waits = placed[next];

			for (size_t i = 0; !waits && i < count; i++)
				waits = !placed[i] && comes_first(&items[i], &items[next]);
			if (!waits)
				break;
		}
		if (next == count)
			return -ELOOP;
		placed[next] = true;
		order[done] = next;
	}
	memcpy(out, order, count * sizeof(*out));
	return 0;
}
