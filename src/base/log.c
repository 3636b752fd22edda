/* One write(2) a line, so that lines of several processes do not mix; see log.h. */
#include "base/log.h"
#include "base/json.h"
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum lat_log_level max_level = LAT_LOG_WARN;
static int log_fd = 2;
static const char *log_name = "lattice";
static bool as_json;
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

void lat_log_set_style(const char *name, bool json)
{
	log_name = name;
	as_json = json;
}

/* The length of the line, which has room for a newline yet. */
static int plain_line(char *line, size_t size, enum lat_log_level level, const char *text)
{
	static const char *const tag[] = { "error: ", "warning: ", "", "debug: " };
	_Static_assert(sizeof(tag) / sizeof(tag[0]) == LAT_LOG_COUNT, "a tag for each level");
	int n = snprintf(line, size - 1, "%s: %s%s", log_name, tag[level], text);

	return n < (int)size - 1 ? n : (int)size - 2;
}

static int json_line(char *line, size_t size, enum lat_log_level level, const char *text)
{
	static const char *const words[] = { "error", "warn", "info", "debug" };
	static const char numbers[] = { '3', '4', '6', '7' };
	size_t len = strlen(text);
	struct lat_json json;
	struct timespec now;
	int n;

	clock_gettime(CLOCK_REALTIME, &now);
	memcpy(line, "<6>", 3);
	line[1] = numbers[level];
	do { /* each byte may take several: until it fits */
		lat_json_init(&json, line + 3, size - 4);
		lat_json_open(&json, NULL, '{');
		lat_json_uint(&json, "time", (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
		lat_json_string(&json, "level", words[level]);
		lat_json_bytes(&json, "text", text, len);
		lat_json_close(&json, '}');
		n = lat_json_end(&json);
		len /= 2;
	} while (n < 0 && len);
	return n < 0 ? 0 : n + 3;
}

void lat_log(enum lat_log_level level, const char *format, ...)
{
	char text[2048], line[4096];
	int keep = errno, n;
	va_list args;

	if (level > max_level || !lat_log_ready())
		return;
	va_start(args, format);
	if (vsnprintf(text, sizeof(text), format, args) < 0)
		text[0] = '\0';
	va_end(args);
	n = as_json ? json_line(line, sizeof(line), level, text) : plain_line(line, sizeof(line), level, text);
	line[n++] = '\n';
	if (write(log_fd, line, (size_t)n) < 0) { /* nowhere left to say so */
	}
	errno = keep;
}
