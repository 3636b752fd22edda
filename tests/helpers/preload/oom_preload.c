/* Preloaded by oom: malloc, calloc and realloc count, and the OOM_AT-th call of a process fails, or that and all later
 * ones ("N-"). Forked children go on counting; what they execute is left alone. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);

static atomic_long calls;
static long at;
static int all_later;

__attribute__((constructor)) static void set(void)
{
	const char *text = getenv("OOM_AT");

	at = text ? atol(text) : 0;
	all_later = text && strchr(text, '-');
	unsetenv("OOM_AT");
	unsetenv("LD_PRELOAD");
	atomic_store(&calls, 0);
}

static int fails(void)
{
	long call;

	if (!at)
		return 0;
	call = atomic_fetch_add(&calls, 1) + 1;
	if (all_later ? call < at : call != at)
		return 0;
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
	return fails() ? NULL : __libc_realloc(old, size);
}
