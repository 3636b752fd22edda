/* See preload_place.h. */
#include "core/preload_place.h"
#include "base/mem.h"
#include "intercept/shared.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

extern char **environ;

int lat_preload_library(char path[PATH_MAX])
{
	static const char *const places[] = { "", "/../" LATTICE_LIBDIR };
	char self[PATH_MAX], look[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	snprintf(path, PATH_MAX, "the folder of this executable");
	if (n <= 0)
		return -ENOENT;
	self[n] = '\0';
	n = strrchr(self, '/') - self;
	for (size_t i = 0; i < LAT_ARRAY_SIZE(places); i++) {
		if (snprintf(look, sizeof(look), "%.*s%s/%s", (int)n, self, places[i], LAT_SHIM_LIBRARY) >= (int)sizeof(look))
			return -ENOENT;
		if (realpath(look, path) && access(path, R_OK) == 0)
			return 0;
	}
	snprintf(path, PATH_MAX, "%s", look);
	return -ENOENT;
}

static bool is(const char *entry, const char *name)
{
	size_t n = strlen(name);

	return strncmp(entry, name, n) == 0 && entry[n] == '=';
}

int lat_preload_environment(const char *library, const char *dir, char ***out)
{
	const char *theirs = getenv("LD_PRELOAD");
	size_t count = 0, used = 0, text;
	char **list, *at;

	if (strpbrk(library, " :$")) /* the loader parts and expands there */
		return -EINVAL;
	while (environ && environ[count])
		count++;
	theirs = theirs ? theirs : "";
	text = sizeof("LD_PRELOAD=") + strlen(library) + 1 + strlen(theirs) + sizeof(LAT_SHIM_VARIABLE) + 1 + strlen(dir) + 1;
	list = malloc((count + 3) * sizeof(*list) + text);
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		if (!is(environ[i], "LD_PRELOAD") && !is(environ[i], LAT_SHIM_VARIABLE))
			list[used++] = environ[i];
	at = (char *)(list + count + 3);
	list[used++] = at;
	at += sprintf(at, "LD_PRELOAD=%s%s%s", library, theirs[0] ? ":" : "", theirs) + 1;
	list[used++] = at;
	sprintf(at, "%s=%s", LAT_SHIM_VARIABLE, dir);
	list[used] = NULL;
	*out = list;
	return 0;
}
