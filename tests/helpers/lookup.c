/* lookup NAME...: prints the addresses that getaddrinfo gives, one "NAME ADDRESS" a line, or "NAME error: TEXT MS" with the
 * milliseconds it took. For comparing C libraries: the e2e tests also build it with musl. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
		long start = now_ms();
		int r = getaddrinfo(argv[i], NULL, &hints, &list);

		if (r)
			printf("%s error: %s %ld\n", argv[i], gai_strerror(r), now_ms() - start);
		for (struct addrinfo *a = list; a; a = a->ai_next) {
			char text[64];

			if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) == 0)
				printf("%s %s\n", argv[i], text);
		}
		if (list)
			freeaddrinfo(list);
	}
	return 0;
}
