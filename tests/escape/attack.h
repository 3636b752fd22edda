/* What the attack programs share: the addresses, a stream socket that does not wait, and main(), which runs the attack that
 * is named. Exit 0: tried; 77: this kernel does not have it (with a reason). `--list` prints the names.
 *
 * Forbidden: $FORBIDDEN4 and $FORBIDDEN6 (203.0.113.10 and 2001:db8::a), any port. Allowed: 203.0.113.9 and 2001:db8::9 port 80 (TCP and UDP). */
#ifndef LAT_TESTS_ATTACK_H
#define LAT_TESTS_ATTACK_H
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct attack {
	const char *name;
	int (*run)(void);
};

static struct sockaddr_in bad = { .sin_family = AF_INET }, good = { .sin_family = AF_INET };
static const char payload[] = "leak";

static inline int absent(const char *why)
{
	fprintf(stderr, "not here: %s\n", why);
	return 77;
}

/* The control and the attack proper go to addresses of their own: a late packet of one is not taken for the other's. */
static inline const char *forbidden(const char *variable, const char *fallback)
{
	return getenv(variable) ? getenv(variable) : fallback;
}

/* Runs argv[1] of the list (ends with a NULL name), or prints the names. */
static inline int attack_main(int argc, char **argv, const struct attack *list)
{
	bool names = argc > 1 && strcmp(argv[1], "--list") == 0;

	bad.sin_port = good.sin_port = htons(80);
	inet_pton(AF_INET, forbidden("FORBIDDEN4", "203.0.113.10"), &bad.sin_addr);
	inet_pton(AF_INET, "203.0.113.9", &good.sin_addr);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; list->name; list++) {
		if (names)
			puts(list->name);
		else if (argc > 1 && strcmp(argv[1], list->name) == 0)
			return list->run();
	}
	return names ? 0 : 2;
}

#endif
