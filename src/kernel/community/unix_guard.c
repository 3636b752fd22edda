/* See unix_guard.h. */
#include "kernel/unix_guard.h"
#include "base/edition.h"

int lat_unix_guard(const char *group, char say[LAT_UNIX_GUARD_SAY])
{
	return -LAT_EPRO;
}
