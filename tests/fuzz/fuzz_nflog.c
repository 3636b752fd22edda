/* A datagram of NFLOG: any bytes. What is a packet lies within them, and what becomes an event is one. */
#include "core/flow_packet.h"
#include "core/pump.h"
#include "kernel/nflog.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bounds {
	const uint8_t *from, *to;
	int packets;
};

static void within(const struct bounds *b, const void *at, size_t size)
{
	const uint8_t *p = at;

	if (size && (p < b->from || p > b->to || size > (size_t)(b->to - p)))
		abort();
}

static void packet(void *ctx, const struct lat_nflog_packet *p)
{
	struct bounds *b = ctx;
	struct lat_event e;

	b->packets++;
	within(b, p->prefix, p->prefix_size);
	within(b, p->data, p->size);
	memset(&e, 0xa5, sizeof(e));
	if (lat_event_from_nflog(p, &e) == 0) {
		if (e.kind != LAT_EVENT_VERDICT || e.action >= LAT_ACTION_COUNT || e.dir >= LAT_DIR_COUNT || e.packets != 1)
			abort();
	} else if (e.kind != 0xa5) {
		abort(); /* touched on failure */
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct bounds b = { copy, copy + size, 0 };
	struct lat_flow flow;
	uint32_t length;
	uint64_t odd = 0;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	if (lat_nflog_parse(copy, size, packet, &b, &odd) != b.packets)
		abort();
	lat_packet_ends(copy, size, &flow, &length); /* the bytes as a packet, too */
	free(copy);
	return 0;
}
