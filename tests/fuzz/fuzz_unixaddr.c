/* A unix socket address as a program may pass it: the path that we read is the one that the kernel would read. */
#include "core/unixpath.h"
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t head = offsetof(struct sockaddr_un, sun_path);
	char path[LAT_UNIX_PATH_MAX], *exact;
	enum lat_unix_kind kind;
	sa_family_t family = AF_UNSPEC;

	size = size > 128 ? 128 : size;
	exact = calloc(1, size ? size : 1); /* a read beyond the length is seen by the sanitizer */
	memcpy(exact, data, size);
	memset(path, 'x', sizeof(path));
	kind = lat_unix_parse(exact, size, path);
	if (size >= sizeof(family))
		memcpy(&family, exact, sizeof(family));
	switch (kind) {
	case LAT_UNIX_PATH:
		if (family != AF_UNIX || size <= head || size > sizeof(struct sockaddr_un) || !path[0] ||
			strnlen(path, sizeof(path)) != strnlen(exact + head, size - head) ||
			memcmp(path, exact + head, strlen(path)) != 0)
			abort();
		break;
	case LAT_UNIX_ABSTRACT:
		if (family != AF_UNIX || size <= head || exact[head] != '\0')
			abort();
		break;
	default:
		if (family == AF_UNIX && size > head && size <= sizeof(struct sockaddr_un))
			abort();
	}
	free(exact);
	return 0;
}
