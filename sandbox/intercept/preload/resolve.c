/* getaddrinfo and its kin. A name is asked for at the supervisor, whose resolver answers and pins; libc is given numbers
 * only, so it never asks anybody itself. These may allocate, as what they stand for does. */
#include "shim.h"
#include "intercept/dns.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>

#define ANSWER 16384

struct found {
	struct lat_addr addrs[2 * LAT_SHIM_DNS_ADDRS];
	size_t count;
	int why; /* of none: -ENOENT, -EACCES, -EAGAIN, ... */
};

static bool own_name(const char *name)
{
	char host[256] = "";

	return strcmp(name, "localhost") == 0 ||
		(gethostname(host, sizeof(host) - 1) == 0 && host[0] && strcasecmp(name, host) == 0);
}

static void add_loopback(struct found *f, bool four)
{
	static const uint8_t v4[4] = { 127, 0, 0, 1 }, v6[16] = { [15] = 1 };

	if (four)
		lat_addr_from4(&f->addrs[f->count++], v4);
	else
		lat_addr_from6(&f->addrs[f->count++], v6);
}

static int ask(const char *name, int family, struct found *f)
{
	uint8_t query[LAT_SHIM_DNS_QUERY], *answer;
	int n = lat_shim_dns_query(name, family, query);

	if (n < 0)
		return -ENOENT;
	answer = malloc(ANSWER);
	if (!answer)
		return -ENOMEM;
	n = lat_shim_dns(query, (size_t)n, answer, ANSWER);
	if (n > 0)
		n = lat_shim_dns_answer(answer, (size_t)n, family, f->addrs + f->count, LAT_SHIM_DNS_ADDRS);
	else
		n = n < 0 ? -EAGAIN : -EBADMSG;
	free(answer);
	return n;
}

/* Can this host send there? No packet is sent: it is how libc looks, too. */
static bool has_route(const struct lat_addr *a)
{
	struct sockaddr_storage to;
	socklen_t len = lat_addr_to_sockaddr(a, 9, false, &to);
	int fd = (int)syscall(SYS_socket, to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool has = fd >= 0 && syscall(SYS_connect, fd, &to, len) == 0;

	if (fd >= 0)
		syscall(SYS_close, fd);
	return has;
}

/* Those that this host has no way to come last. */
static void sort(struct found *f)
{
	struct lat_addr last[2 * LAT_SHIM_DNS_ADDRS];
	size_t n = 0, k = 0;

	for (size_t i = 0; i < f->count; i++) {
		if (has_route(&f->addrs[i]))
			f->addrs[n++] = f->addrs[i];
		else
			last[k++] = f->addrs[i];
	}
	memcpy(f->addrs + n, last, k * sizeof(*last));
}

/* family: AF_UNSPEC, AF_INET, AF_INET6. */
static void find(const char *name, int family, struct found *f)
{
	int keep = errno, r;

	f->count = 0;
	f->why = -ENOENT;
	for (int four = 0; four < 2; four++) {
		if (family == (four ? AF_INET6 : AF_INET))
			continue;
		if (own_name(name)) {
			add_loopback(f, four);
			continue;
		}
		r = ask(name, four ? 4 : 6, f);
		if (r > 0)
			f->count += (size_t)r;
		else if (r < 0)
			f->why = r;
	}
	if (f->count > 1)
		sort(f);
	errno = keep;
}

typedef int getaddrinfo_t(const char *, const char *, const struct addrinfo *, struct addrinfo **);
typedef int getnameinfo_t(const struct sockaddr *, socklen_t, char *, socklen_t, char *, socklen_t, int);

/* Is it glibc? There each part of a list is its own. */
static bool lists_can_be_joined(void)
{
	return dlsym(RTLD_DEFAULT, "gnu_get_libc_version") != NULL;
}

static int failure(int why)
{
	return why == -EAGAIN ? EAI_AGAIN : why == -ENOMEM ? EAI_MEMORY : EAI_NONAME;
}

/* The canonical name of the first is the name, not the number. */
static void rename_first(struct addrinfo *first, const char *name)
{
	char *copy;

	if (!first->ai_canonname)
		return;
	copy = strdup(name);
	if (!copy)
		return;
	free(first->ai_canonname);
	first->ai_canonname = copy;
}

static int by_numbers(getaddrinfo_t *next, const struct found *f, const char *name, const char *service,
	const struct addrinfo *hints, struct addrinfo **out)
{
	struct addrinfo h = hints ? *hints : (struct addrinfo){ .ai_flags = 0 }, *list = NULL, **end = &list;
	bool join = lists_can_be_joined();
	int r = EAI_NONAME;

	for (size_t i = 0; i < f->count && (join || i == 0); i++) {
		char text[LAT_ADDR_TEXT];
		bool four = lat_addr_is4(&f->addrs[i]);

		inet_ntop(four ? AF_INET : AF_INET6, f->addrs[i].b + (four ? 12 : 0), text, sizeof(text));
		h.ai_flags = ((hints ? hints->ai_flags : 0) | AI_NUMERICHOST) & ~AI_ADDRCONFIG;
		if (i)
			h.ai_flags &= ~AI_CANONNAME;
		r = next(text, service, &h, end);
		if (r)
			break;
		while (*end)
			end = &(*end)->ai_next;
	}
	if (r && !list)
		return r;
	if (join)
		rename_first(list, name);
	*out = list;
	return 0;
}

LAT_HOOK(int, getaddrinfo,
	(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out))
{
	getaddrinfo_t *next = (getaddrinfo_t *)dlsym(RTLD_NEXT, "getaddrinfo");
	struct addrinfo numeric = hints ? *hints : (struct addrinfo){ .ai_flags = 0 };
	struct found f;
	int r;

	if (!next)
		return EAI_FAIL;
	if (!name || (numeric.ai_flags & AI_NUMERICHOST))
		return next(name, service, hints, out);
	numeric.ai_flags |= AI_NUMERICHOST;
	r = next(name, service, &numeric, out);
	if (r != EAI_NONAME)
		return r;
	find(name, numeric.ai_family, &f);
	if (f.count == 0)
		return failure(f.why);
	return by_numbers(next, &f, name, service, hints, out);
}

/* No name is looked up for an address: that it is asked about is no one's business. */
LAT_HOOK(int, getnameinfo,
	(const struct sockaddr *sa, socklen_t len, char *host, socklen_t host_len, char *service, socklen_t service_len,
		int flags))
{
	getnameinfo_t *next = (getnameinfo_t *)dlsym(RTLD_NEXT, "getnameinfo");

	if (!next)
		return EAI_FAIL;
	if (flags & NI_NAMEREQD)
		return EAI_NONAME;
	return next(sa, len, host, host_len, service, service_len, flags | (host && host_len ? NI_NUMERICHOST : 0));
}

/* ---- the calls before it ---- */

/* The caller's room, cut off from the front. */
static void *cut(char **room, size_t *left, size_t size, size_t align)
{
	size_t skip = (align - (uintptr_t)*room % align) % align;
	char *at = *room + skip;

	if (skip + size > *left)
		return NULL;
	*room += skip + size;
	*left -= skip + size;
	return at;
}

/* 0, ERANGE, or ENOENT with *error set. */
static int fill(const char *name, int family, struct hostent *h, char *room, size_t left, int *error)
{
	struct found f = { .count = 0 };
	size_t size = family == AF_INET ? 4 : 16, len = strlen(name) + 1;
	struct in6_addr number;
	char **list, **aliases, *copy;

	if (inet_pton(family, name, &number) == 1) {
		if (family == AF_INET)
			lat_addr_from4(&f.addrs[f.count++], &number);
		else
			lat_addr_from6(&f.addrs[f.count++], &number);
	} else {
		find(name, family, &f);
	}
	if (f.count == 0) {
		*error = f.why == -EAGAIN ? TRY_AGAIN : HOST_NOT_FOUND;
		return ENOENT;
	}
	aliases = cut(&room, &left, sizeof(char *), sizeof(char *));
	list = cut(&room, &left, (f.count + 1) * sizeof(char *), sizeof(char *));
	copy = cut(&room, &left, len, 1);
	if (!aliases || !list || !copy)
		goto small;
	for (size_t i = 0; i < f.count; i++) {
		list[i] = cut(&room, &left, size, 4);
		if (!list[i])
			goto small;
		memcpy(list[i], f.addrs[i].b + 16 - size, size);
	}
	list[f.count] = NULL;
	aliases[0] = NULL;
	*h = (struct hostent){ .h_name = memcpy(copy, name, len), .h_aliases = aliases, .h_addrtype = family,
		.h_length = (int)size, .h_addr_list = list };
	return 0;
small:
	*error = NETDB_INTERNAL;
	return ERANGE;
}

static int *h_error(void)
{
	int *(*where)(void) = (int *(*)(void))dlsym(RTLD_DEFAULT, "__h_errno_location");
	static int none;

	return where ? where() : &none;
}

/* By either way; some callers look at the other. */
static void no_host(int *error, int why)
{
	*error = why;
	*h_error() = why;
}

LAT_HOOK(int, gethostbyname2_r,
	(const char *name, int family, struct hostent *h, char *room, size_t size, struct hostent **result, int *error))
{
	int r;

	*result = NULL;
	if (family != AF_INET && family != AF_INET6) {
		no_host(error, NO_RECOVERY);
		return EAFNOSUPPORT;
	}
	r = fill(name, family, h, room, size, error);
	if (r == 0)
		*result = h;
	else
		no_host(error, *error);
	if (r == ERANGE)
		errno = ERANGE;
	return r == ENOENT ? 0 : r;
}

LAT_HOOK(int, gethostbyname_r,
	(const char *name, struct hostent *h, char *room, size_t size, struct hostent **result, int *error))
{
	return lat_hook_gethostbyname2_r(name, AF_INET, h, room, size, result, error);
}

LAT_HOOK(struct hostent *, gethostbyname2, (const char *name, int family))
{
	static struct hostent h;
	static char room[4096];
	struct hostent *result;
	int error = 0;

	lat_hook_gethostbyname2_r(name, family, &h, room, sizeof(room), &result, &error);
	return result;
}

LAT_HOOK(struct hostent *, gethostbyname, (const char *name))
{
	return lat_hook_gethostbyname2(name, AF_INET);
}

LAT_HOOK(int, gethostbyaddr_r,
	(const void *addr, socklen_t len, int family, struct hostent *h, char *room, size_t size, struct hostent **result,
		int *error))
{
	(void)addr, (void)len, (void)family, (void)h, (void)room, (void)size;
	*result = NULL;
	no_host(error, HOST_NOT_FOUND);
	return 0;
}

LAT_HOOK(struct hostent *, gethostbyaddr, (const void *addr, socklen_t len, int family))
{
	(void)addr, (void)len, (void)family;
	*h_error() = HOST_NOT_FOUND;
	return NULL;
}
