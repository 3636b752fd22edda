/* Loads generations of a policy, each in a Lua state of its own with a policy's limits, and asks their handlers. One
 * thread at a time: the main thread until the run starts, the policy thread after. */
#ifndef LAT_LUA_LOADER_H
#define LAT_LUA_LOADER_H
#include "core/audit.h"
#include "core/policy.h"
#include "core/worker.h"

struct lat_loader;

/* spec: the options of lua/lattice/generation.lua as JSON; copied. */
int lat_loader_new(const char *spec, size_t len, struct lat_loader **out);
void lat_loader_free(struct lat_loader *loader);
/* Loads generation `number` and makes it the one that is asked. *policy gets one reference; *info the description as JSON
 * (malloc'ed). -EINVAL: the policy is wrong, *error (malloc'ed) says where, one line each; or negative errno, and *error
 * is such a text, too, or NULL. The old generation stays on failure. */
int lat_loader_load(struct lat_loader *loader, uint32_t number, struct lat_policy **policy, char **info, char **error);
/* Runs the handler for the question; whatever goes wrong is a denial with answer->failed and a text. */
void lat_loader_answer(struct lat_loader *loader, const struct lat_question *question, struct lat_answer *answer);

/* Do two descriptions (info) name the same limits? */
bool lat_loader_same_limits(const char *one, const char *other);
/* Audit routes of JSON text: an array of { kinds, actions, sink, target, rotate }, or an object with that array under
 * "audit". *routes is malloc'ed; free with lat_loader_routes_free. 0, -EINVAL, -ENOMEM. */
int lat_loader_routes(const char *json, struct lat_audit_route **routes, size_t *count);
void lat_loader_routes_free(struct lat_audit_route *routes, size_t count);

#endif
