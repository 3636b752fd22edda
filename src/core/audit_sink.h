/* Where lines of the audit end: a file, syslog, or a datagram socket. A sink keeps what its target does not take at once, up
 * to a bound; beyond it lines are lost and counted, and a "loss" line tells of them before the next one that is written.
 * Lines are never cut. All of it runs in the writer's thread. */
#ifndef LAT_CORE_AUDIT_SINK_H
#define LAT_CORE_AUDIT_SINK_H
#include "core/audit.h"

#define LAT_LINE_MAX 16384

struct lat_sink;

/* Opens the route's target (or takes route->fd). 0 or negative errno; then route->fd is closed too. */
int lat_sink_open(const struct lat_audit_route *route, struct lat_sink **out);
/* The target of this route? */
bool lat_sink_is(const struct lat_sink *sink, const struct lat_audit_route *route);
void lat_sink_set_rotation(struct lat_sink *sink, uint64_t bytes);
void lat_sink_put(struct lat_sink *sink, const struct lat_record *record, const struct lat_audit_context *context);
/* Hands over what is kept, as far as the target takes it. */
void lat_sink_flush(struct lat_sink *sink, const struct lat_audit_context *context);
/* Something is kept, or a loss is not told yet. */
bool lat_sink_pending(const struct lat_sink *sink);
/* Lines lost so far. */
uint64_t lat_sink_lost(const struct lat_sink *sink);
/* Flushes, fsyncs and frees. Returns how many lines were lost in all, those still kept included. */
uint64_t lat_sink_close(struct lat_sink *sink, const struct lat_audit_context *context);

#endif
