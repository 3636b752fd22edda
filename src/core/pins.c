/* Pins: which names the subject was given for an address (see names.h). A fixed number of pins in one block; chains by
 * address, newest first; a heap by end, so that a full table drops the pin that ends first. Nothing is allocated after
 * lat_pins_new, and pins never used cost no memory (the block's untouched pages). */
#include "core/names.h"
#include "base/mem.h"
#include <string.h>

#define NONE UINT32_MAX

struct pin {
	struct lat_addr addr;
	uint64_t until_ns;
	uint32_t next;    /* in its chain, or the free list; NONE: the last */
	uint32_t at_heap; /* index in the heap */
	char name[LAT_NAME_MAX];
};

struct lat_pins {
	struct pin *pins;
	uint32_t max, touched, free; /* pins[touched..] were never used */
	uint32_t *heap, heap_count;  /* pin numbers; the one that ends first is heap[0] */
	uint32_t *chains, chain_mask;
};

int lat_pins_new(size_t max, struct lat_pins **out)
{
	struct lat_pins *p;
	uint32_t chains = 16;

	if (max == 0 || max > UINT32_MAX / 4)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	while (chains < max)
		chains *= 2;
	p->max = (uint32_t)max;
	p->free = NONE;
	p->chain_mask = chains - 1;
	p->pins = calloc(max, sizeof(*p->pins));
	p->heap = calloc(max, sizeof(*p->heap));
	p->chains = malloc(chains * sizeof(*p->chains));
	if (!p->pins || !p->heap || !p->chains) {
		lat_pins_free(p);
		return -ENOMEM;
	}
	memset(p->chains, 0xff, chains * sizeof(*p->chains));
	*out = p;
	return 0;
}

void lat_pins_free(struct lat_pins *p)
{
	if (!p)
		return;
	free(p->pins);
	free(p->heap);
	free(p->chains);
	free(p);
}

static uint32_t *chain_of(struct lat_pins *p, const struct lat_addr *addr)
{
	uint64_t hi, lo;

	memcpy(&hi, addr->b, 8);
	memcpy(&lo, addr->b + 8, 8);
	hi = (hi ^ lo * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
	return &p->chains[(hi ^ hi >> 32) & p->chain_mask];
}

static void heap_put(struct lat_pins *p, uint32_t at, uint32_t pin)
{
	p->heap[at] = pin;
	p->pins[pin].at_heap = at;
}

/* Puts the pin where it belongs, starting from the hole `at`. */
static void heap_settle(struct lat_pins *p, uint32_t at, uint32_t pin)
{
	uint64_t until = p->pins[pin].until_ns;

	while (at > 0 && p->pins[p->heap[(at - 1) / 2]].until_ns > until) {
		heap_put(p, at, p->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= p->heap_count)
			break;
		if (child + 1 < p->heap_count &&
			p->pins[p->heap[child + 1]].until_ns < p->pins[p->heap[child]].until_ns)
			child++;
		if (p->pins[p->heap[child]].until_ns >= until)
			break;
		heap_put(p, at, p->heap[child]);
		at = child;
	}
	heap_put(p, at, pin);
}

static void unchain(struct lat_pins *p, uint32_t pin)
{
	uint32_t *link = chain_of(p, &p->pins[pin].addr);

	while (*link != pin)
		link = &p->pins[*link].next;
	*link = p->pins[pin].next;
}

/* Removes the pin that ends first; its place becomes free. */
static void drop_first(struct lat_pins *p)
{
	uint32_t pin = p->heap[0], last = p->heap[--p->heap_count];

	if (last != pin)
		heap_settle(p, 0, last);
	unchain(p, pin);
	p->pins[pin].next = p->free;
	p->free = pin;
}

static uint32_t find(struct lat_pins *p, const struct lat_addr *addr, const char *name)
{
	uint32_t i = *chain_of(p, addr);

	while (i != NONE && !(lat_addr_equal(&p->pins[i].addr, addr) && strcmp(p->pins[i].name, name) == 0))
		i = p->pins[i].next;
	return i;
}

int lat_pins_add(struct lat_pins *p, const struct lat_addr *addr, const char *name, uint64_t until_ns)
{
	size_t len = strlen(name);
	uint32_t pin, *chain;

	if (len == 0 || len >= LAT_NAME_MAX)
		return -EINVAL;
	pin = find(p, addr, name);
	if (pin != NONE) { /* told again: the later end counts, and it is the newest again */
		unchain(p, pin);
		if (until_ns > p->pins[pin].until_ns)
			p->pins[pin].until_ns = until_ns;
		heap_settle(p, p->pins[pin].at_heap, pin);
	} else {
		if (p->heap_count == p->max)
			drop_first(p);
		pin = p->free != NONE ? p->free : p->touched++;
		if (pin == p->free)
			p->free = p->pins[pin].next;
		p->pins[pin].addr = *addr;
		p->pins[pin].until_ns = until_ns;
		memcpy(p->pins[pin].name, name, len + 1);
		heap_settle(p, p->heap_count++, pin);
	}
	chain = chain_of(p, addr);
	p->pins[pin].next = *chain;
	*chain = pin;
	return 0;
}

void lat_pins_each(struct lat_pins *p, const struct lat_addr *addr, uint64_t now_ns,
	bool (*each)(const char *name, void *arg), void *arg)
{
	for (uint32_t i = *chain_of(p, addr); i != NONE; i = p->pins[i].next)
		if (p->pins[i].until_ns > now_ns && lat_addr_equal(&p->pins[i].addr, addr) &&
			!each(p->pins[i].name, arg))
			return;
}

static bool take_first(const char *name, void *arg)
{
	*(const char **)arg = name;
	return false;
}

const char *lat_pins_name(struct lat_pins *p, const struct lat_addr *addr, uint64_t now_ns)
{
	const char *name = NULL;

	lat_pins_each(p, addr, now_ns, take_first, &name);
	return name;
}

void lat_pins_expire(struct lat_pins *p, uint64_t now_ns)
{
	while (p->heap_count && p->pins[p->heap[0]].until_ns <= now_ns)
		drop_first(p);
}
