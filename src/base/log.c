/* One write(2) a line, so that lines of several processes do not mix; see log.h. */
#include "base/log.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static enum lat_log_level max_level = LAT_LOG_WARN;
static int log_fd = 2;
static atomic_bool patient = true;

void lat_log_set_level(enum lat_log_level level)
{
	max_level = level;
}

void lat_log_set_fd(int fd)
{
	log_fd = fd;
}

void lat_log_set_patience(bool patience)
{
	atomic_store(&patient, patience);
}

bool lat_log_ready(void)
{
	struct pollfd p = { log_fd, POLLOUT, 0 };

	return atomic_load(&patient) || poll(&p, 1, 0) != 0;
}

void lat_log(enum lat_log_level level, const char *format, ...)
{
	static const char *const tag[] = { "error: ", "warning: ", "", "debug: " };
	_Static_assert(sizeof(tag) / sizeof(tag[0]) == LAT_LOG_COUNT, "a tag for each level");
	char line[2048];
	int keep = errno, n, m;
	va_list args;

	if (level > max_level || !lat_log_ready())
		return;
	n = snprintf(line, sizeof(line), "lattice: %s", tag[level]);
	va_start(args, format);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
	va_end(args);
	if (m > 0)
		n += m < (int)sizeof(line) - n - 2 ? m : (int)sizeof(line) - n - 2;
	line[n++] = '\n';
	if (write(log_fd, line, (size_t)n) < 0) { /* nowhere left to say so */
	}
	errno = keep;
}
