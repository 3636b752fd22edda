/* What a name server said about one name, read strictly: only records on the chain that begins at
 * the asked name count. */
#ifndef LAT_LOOP_ANSWER_H
#define LAT_LOOP_ANSWER_H
#include "loop/resolver.h"

/* Reads the answer to a question for `name` (text without trailing dot; compared without case) and
 * family 4 or 6. 0 with out->status 0 or -ENODATA; -EPROTO: garbage, another question, or a chain
 * that loops or is too long. *out is undefined then. */
int lat_answer_read(
	const uint8_t *msg, size_t len, const char *name, int family, struct lat_resolved *out);

/* Does the message's question have the name exactly so, letter case included? */
bool lat_answer_echoes(const uint8_t *msg, size_t len, const char *asked);

#endif
