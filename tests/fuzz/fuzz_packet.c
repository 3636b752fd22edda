/* The parser of held packets: any bytes; what it accepts must lie within them. */
#include "core/flow_packet.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Exactly as long as the input: reading past the end is seen by the sanitizer. */
	uint8_t *copy = malloc(size ? size : 1);
	struct lat_packet p;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	memset(&p, 0xa5, sizeof(p));
	if (lat_packet_parse(copy, size, &p) == 0) {
		if (p.payload < copy || p.payload_size > size - (size_t)(p.payload - copy))
			abort();
		if (p.flow.dir != LAT_DIR_OUT || lat_addr_is4(&p.flow.local) != lat_addr_is4(&p.flow.remote))
			abort();
	} else if (p.payload_size != (size_t)0xa5a5a5a5a5a5a5a5ull) {
		abort(); /* touched on failure */
	}
	free(copy);
	return 0;
}
