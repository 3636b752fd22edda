/* Look-ups in the image of the tables. For any content of the memory: no read outside of it, no endless walk, and what is
 * odd is denied. No allocation, no call: safe in signal handlers. */
#ifndef LAT_SANDBOX_INTERCEPT_TABLE_H
#define LAT_SANDBOX_INTERCEPT_TABLE_H
#include "intercept/shared.h"
#include <stdbool.h>

/* Is this an image whose parts lie inside it? size: of the mapping; at: aligned to 16 bytes. */
bool lat_shim_valid(const void *at, size_t size);
/* The lowest rule of the tables for the flow, 0: none; or -EBADMSG. The image is valid. */
int64_t lat_shim_find(const struct lat_shim_image *image, const struct lat_shim_flow *flow);

struct lat_shim_answer {
	uint8_t what;   /* enum lat_shim_what */
	uint8_t action; /* enum lat_action */
	uint16_t err;
	uint32_t rule;
};

/* What to do with a new flow. */
void lat_shim_judge(const struct lat_shim_image *image, const struct lat_shim_flow *flow, struct lat_shim_answer *out);
/* May somebody outside come in on this port by some rule? (A bind is let go on then.) */
bool lat_shim_may_come_in(const struct lat_shim_image *image, uint8_t proto, uint16_t port, struct lat_shim_answer *out);
/* Has the run itself bound the port on loopback? */
bool lat_shim_own(const struct lat_shim_control *control, uint8_t proto, uint16_t port);

#endif
