/* Answers of handlers that hold for the rest of the run: (kind, protocol, destination, port or name; one process or
 * all) -> verdict. Bounded;
 * emptied by a reload, so that no answer of an older generation is ever used. */
#ifndef LAT_CORE_ANSWERS_H
#define LAT_CORE_ANSWERS_H
#include "core/worker.h"

struct lat_answers;

int lat_answers_new(size_t max, struct lat_answers **out);
void lat_answers_free(struct lat_answers *answers);
/* Remembers the answer to the question. A full table forgets an arbitrary entry (which is then asked again). */
void lat_answers_put(struct lat_answers *answers, const struct lat_question *question, const struct lat_answer *answer,
	uint64_t now_ns);
/* True with *action (and reason copied into text, 256 bytes) if an answer still holds. */
bool lat_answers_get(struct lat_answers *answers, const struct lat_question *question, uint64_t now_ns, uint8_t *action,
	char *text);
void lat_answers_clear(struct lat_answers *answers);

#endif
