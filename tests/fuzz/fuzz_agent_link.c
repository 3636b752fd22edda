/* What an agent sends to the supervisor of a run: any bytes, in pieces of any size, while a question waits or not. Nothing of it
 * reaches memory that is not its own, events are whole records, and what is no frame ends the link. */
#include "core/agent_link.h"
#include <lattice_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_event(void *ctx, const void *record, size_t size)
{
	struct lat_event e;

	if (size != sizeof(e))
		abort();
	memcpy(&e, record, size);
	*(uint64_t *)ctx += e.kind + 1u;
}

static void on_lost(void *ctx, uint64_t count)
{
	if (count == 0)
		abort();
	*(uint64_t *)ctx += count;
}

static void on_reload(void *ctx)
{
	*(uint64_t *)ctx += 1;
}

/* The first byte: how many bytes a piece has, and whether a run is asked for first. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t seen = 0;
	const struct lat_agent_hooks hooks = { .ctx = &seen, .event = on_event, .lost = on_lost, .reload = on_reload };
	const struct lat_agent_run run = { .init = 1, .name = "fuzz" };
	struct lat_agent_started started;
	struct lat_agent_link *link;
	char say[LAT_AGENT_SAY];
	size_t piece;
	int ends[2];

	if (size < 1 || size > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return 0;
	if (lat_agent_new(ends[1], &hooks, &link) < 0)
		abort();
	piece = (data[0] & 0x7f) + 1u;
	if (data[0] & 0x80) { /* all there, and then the end: nothing waits */
		if (write(ends[0], data + 1, size - 1) < 0 || shutdown(ends[0], SHUT_WR) < 0)
			abort();
		lat_agent_start(link, &run, &started, say);
	} else {
		for (size_t at = 1; at < size; at += piece) {
			size_t n = size - at < piece ? size - at : piece;

			if (write(ends[0], data + at, n) < 0)
				abort();
			if (lat_agent_dispatch(link) < 0)
				break;
		}
	}
	lat_agent_dispatch(link);
	lat_agent_close(link);
	close(ends[0]);
	return 0;
}
