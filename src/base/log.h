/* Messages for people, on stderr, one line each: "lattice: text". Logged once, where an error is handled. */
#ifndef LAT_BASE_LOG_H
#define LAT_BASE_LOG_H
#include <stdbool.h>

enum lat_log_level { LAT_LOG_ERROR, LAT_LOG_WARN, LAT_LOG_INFO, LAT_LOG_DEBUG, LAT_LOG_COUNT };

/* Messages above this level are dropped; the default is LAT_LOG_WARN. */
void lat_log_set_level(enum lat_log_level level);
/* The descriptor that messages go to (default 2); not owned. */
void lat_log_set_fd(int fd);
/* A reader that stopped must not stop us: without patience (it is there at first), what would wait is dropped. */
void lat_log_set_patience(bool patience);
/* Would a line be written now? For those who write to stderr themselves. */
bool lat_log_ready(void);
/* Lines for a service: the name in place of "lattice", and for a collector "<N>" and a JSON object { time, level, text } (N: syslog's
 * number). The name is not copied. */
void lat_log_set_style(const char *name, bool json);
void lat_log(enum lat_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define lat_error(...) lat_log(LAT_LOG_ERROR, __VA_ARGS__)
#define lat_warn(...) lat_log(LAT_LOG_WARN, __VA_ARGS__)
#define lat_info(...) lat_log(LAT_LOG_INFO, __VA_ARGS__)
#define lat_debug(...) lat_log(LAT_LOG_DEBUG, __VA_ARGS__)

#endif
