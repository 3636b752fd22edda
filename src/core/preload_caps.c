/* See preload_caps.h. The library is loaded, and its connect must refuse: it has no supervisor. */
#include "core/preload_caps.h"
#include "core/preload_place.h"
#include "base/mem.h"
#include "intercept/shared.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdio.h>
#include <sys/socket.h>

static int preload(char *detail, size_t size)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int (*hook)(int, const struct sockaddr *, socklen_t);
	lat_autoclose int fd = -1;
	char path[PATH_MAX];
	void *library;
	int r = lat_preload_library(path);

	if (r < 0) {
		snprintf(detail, size, "no %s beside this executable", LAT_SHIM_LIBRARY);
		return r;
	}
	unsetenv(LAT_SHIM_VARIABLE);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	hook = library ? (__typeof__(hook))dlsym(library, "connect") : NULL;
	if (!hook) {
		snprintf(detail, size, "%.150s", dlerror());
		return -ELIBACC;
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* a datagram socket: the kernel itself would not refuse */
	if (fd < 0)
		return -errno;
	if (hook(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return -EPROTO;
	snprintf(detail, size, "advisory");
	return errno == ECONNREFUSED ? 0 : -errno;
}

const struct lat_cap_test lat_preload_caps[] = {
	{ "preload", preload },
	{ NULL, NULL },
};
