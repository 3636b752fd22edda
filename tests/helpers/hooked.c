/* hooked WHAT: calls in the odd ways that the shim of preload mode must stand, and the ways round it. Allowed: 203.0.113.9 port
 * 80 (TCP and UDP); denied: 203.0.113.10. Prints a line for each thing tried: its name and the errno, "ok" for none. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif

static struct sockaddr_in good = { .sin_family = AF_INET }, bad = { .sin_family = AF_INET };

static void say(const char *what, long r)
{
	printf("%s %s\n", what, r < 0 ? strerrorname_np(errno) : "ok");
}

static int tcp(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int udp(void)
{
	return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static int dial(const struct sockaddr_in *to, int fd)
{
	int r = connect(fd, (const struct sockaddr *)to, sizeof(*to)), e = errno;

	close(fd);
	errno = e;
	return r;
}

static struct msghdr message(const struct sockaddr_in *to, struct iovec *io)
{
	*io = (struct iovec){ "x", 1 };
	return (struct msghdr){ .msg_name = (void *)to, .msg_namelen = sizeof(*to), .msg_iov = io, .msg_iovlen = 1 };
}

static int forms(void)
{
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6, .sin6_port = htons(80) };
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct sockaddr_in unspec = bad, any = { .sin_family = AF_INET, .sin_port = htons(8088) };
	struct mmsghdr batch[4];
	struct iovec io;
	struct msghdr m;
	int s, on = 1;

	inet_pton(AF_INET6, "::ffff:203.0.113.10", &mapped.sin6_addr);
	say("connect", dial(&bad, tcp()));
	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	say("nonblocking", dial(&bad, s));
	s = socket(AF_INET6, SOCK_STREAM, 0);
	say("mapped", connect(s, (struct sockaddr *)&mapped, sizeof(mapped)));
	say("fastopen", sendto(tcp(), "x", 1, MSG_FASTOPEN, (struct sockaddr *)&bad, sizeof(bad)));
	s = tcp();
	setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on));
	say("fastopen-connect", dial(&bad, s));
	say("udp-connect", dial(&bad, udp()));
	say("sendto", sendto(udp(), "x", 1, 0, (struct sockaddr *)&bad, sizeof(bad)));
	unspec.sin_family = AF_UNSPEC;
	say("sendto-unspec", sendto(udp(), "x", 1, 0, (struct sockaddr *)&unspec, sizeof(unspec)));
	m = message(&bad, &io);
	say("sendmsg", sendmsg(udp(), &m, 0));
	for (int i = 0; i < 4; i++)
		batch[i].msg_hdr = message(i == 2 ? &bad : &good, &io);
	printf("sendmmsg %d\n", sendmmsg(udp(), batch, 4, 0));
	s = udp();
	say("allowed", connect(s, (struct sockaddr *)&good, sizeof(good)));
	say("dissolve", connect(s, &none, sizeof(none)));
	say("reconnect", connect(s, (struct sockaddr *)&bad, sizeof(bad)));
	say("short", connect(tcp(), (struct sockaddr *)&bad, 8));
	say("long", connect(tcp(), (struct sockaddr *)&bad, 4096));
	say("pointer", connect(tcp(), (struct sockaddr *)16, sizeof(bad)));
	say("no-socket", connect(open("/dev/null", O_RDONLY), (struct sockaddr *)&bad, sizeof(bad)));
	say("bind", bind(tcp(), (struct sockaddr *)&any, sizeof(any)));
	s = tcp();
	say("listen", listen(s, 1));
	any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	say("bind-loopback", bind(tcp(), (struct sockaddr *)&any, sizeof(any)));
	say("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	errno = 77;
	dial(&good, tcp());
	printf("errno-kept %d\n", errno);
	return 0;
}

/* Allowed and denied, again and again; how often the answer was not what it must be. */
static long rounds(int count)
{
	long wrong = 0;

	for (int i = 0; i < count; i++) {
		wrong += dial(&good, i % 2 ? udp() : tcp()) != 0;
		wrong += dial(&bad, i % 2 ? tcp() : udp()) != -1 || errno != ECONNREFUSED;
	}
	return wrong;
}

static void *thread(void *arg)
{
	long wrong = rounds(30);

	for (int i = 0; i < 5; i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0)
			_exit(rounds(5) != 0);
		wrong += pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
	}
	return (void *)wrong;
}

static int storm(void)
{
	pthread_t threads[16];
	long wrong = 0;

	for (int i = 0; i < 16; i++)
		pthread_create(&threads[i], NULL, thread, NULL);
	for (int i = 0; i < 16; i++) {
		void *w;

		pthread_join(threads[i], &w);
		wrong += (long)w;
	}
	printf("wrong %ld\n", wrong);
	return 0;
}

static volatile sig_atomic_t handled, wrong_in_handler;

static void handler(int sig)
{
	int keep = errno;

	wrong_in_handler += dial(&bad, tcp()) != -1 || errno != ECONNREFUSED;
	wrong_in_handler += dial(&good, udp()) != 0;
	handled++;
	errno = keep;
}

static int signals(void)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct itimerval every = { { 0, 500 }, { 0, 500 } };
	long wrong = 0;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (handled < 300) {
		wrong += dial(&bad, udp()) != -1 || errno != ECONNREFUSED;
		wrong += dial(&good, udp()) != 0;
	}
	printf("wrong %ld\n", wrong + wrong_in_handler);
	return 0;
}

static int many(void)
{
	long wrong = 0;

	for (int i = 0; i < 5000; i++) {
		wrong += dial(&good, udp()) != 0;
		wrong += dial(&bad, tcp()) != -1 || errno != ECONNREFUSED;
	}
	printf("wrong %ld\n", wrong);
	return 0;
}

/* Every descriptor is closed, the standard ones too; the answer is the exit status. */
static int closed(void)
{
	for (int fd = 0; fd < 1024; fd++)
		close(fd);
	if (dial(&bad, tcp()) != -1 || errno != ECONNREFUSED)
		_exit(1);
	_exit(dial(&good, udp()) == 0 ? 0 : 2);
}

static int vforked(void)
{
	pid_t pid = vfork();
	int status = -1;

	if (pid == 0)
		_exit(dial(&bad, tcp()) == -1 && errno == ECONNREFUSED ? 0 : 1);
	waitpid(pid, &status, 0);
	printf("vfork %d\n", status);
	return 0;
}

static int early_result, early_errno;

#ifndef HOOKED_STATIC
/* Before the constructors of any library. */
static void before_all(int argc, char **argv, char **env)
{
	(void)env;
	if (argc < 2 || strcmp(argv[1], "early") != 0)
		return;
	bad.sin_port = htons(80);
	inet_pton(AF_INET, "203.0.113.10", &bad.sin_addr);
	early_result = dial(&bad, udp());
	early_errno = errno;
}
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **, char **) = before_all;
#endif

static int early(void)
{
	errno = early_errno;
	say("early", early_result);
	return 0;
}

#ifndef HOOKED_STATIC
static int names(void)
{
	struct addrinfo hints = { .ai_flags = AI_CANONNAME, .ai_socktype = SOCK_STREAM }, *list = NULL;
	unsigned char answer[512], query[512];
	struct hostent h, *result;
	char room[256], small[16];
	int error = 0, n, r;

	n = res_query("plain.example", 1, 1, answer, sizeof(answer));
	printf("res_query %d\n", n > 12 ? answer[7] : n);
	printf("res_search %d\n", res_search("other.example", 1, 1, answer, sizeof(answer)));
	n = res_mkquery(QUERY, "plain.example", 1, 28, NULL, 0, NULL, query, sizeof(query));
	n = res_send(query, n, answer, sizeof(answer));
	printf("res_send %d\n", n >= 12 ? answer[3] & 15 : n);
	r = getaddrinfo("plain.example", "http", &hints, &list);
	printf("getaddrinfo %d %s %d %d\n", r, r ? "" : list->ai_canonname, r ? 0 : ntohs(((struct sockaddr_in *)list->ai_addr)->sin_port),
		!r && !list->ai_next);
	if (!r)
		freeaddrinfo(list);
	printf("service %d\n", getaddrinfo("plain.example", "no-such-service", &hints, &list) == EAI_SERVICE);
	r = gethostbyname2_r("plain.example", AF_INET, &h, small, sizeof(small), &result, &error);
	printf("small %d %d\n", r == ERANGE, error == NETDB_INTERNAL);
	r = gethostbyname2_r("plain.example", AF_INET, &h, room, sizeof(room), &result, &error);
	printf("gethostbyname2_r %d %s\n", r, result ? inet_ntoa(*(struct in_addr *)result->h_addr_list[0]) : "none");
	r = gethostbyname_r("other.example", &h, room, sizeof(room), &result, &error);
	printf("gethostbyname_r %d %d\n", result == NULL, error == HOST_NOT_FOUND);
	printf("gethostbyname %s\n", gethostbyname("203.0.113.77") ? "number" : "none");
	return 0;
}
#endif

/* One connect after the other, as stdin says "again". */
static int repeat(void)
{
	char line[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	say("first", dial(&good, udp()));
	while (fgets(line, sizeof(line), stdin))
		say("next", dial(&good, udp()));
	return 0;
}

/* ---- ways round ---- */

static int direct(void)
{
	say("syscall", syscall(SYS_connect, tcp(), &bad, (long)sizeof(bad)));
	return 0;
}

static int plain(void)
{
	say("connect", dial(&bad, tcp()));
	return 0;
}

#ifdef __x86_64__
static int int80(void)
{
	struct sockaddr_in *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long r;

	*low = bad;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(362l), "b"((long)tcp()), "c"(low), "d"(sizeof(bad)) : "memory", "r8", "r9",
		"r10", "r11");
	errno = r < 0 ? (int)-r : 0;
	say("int80", r < 0 ? -1 : 0);
	return 0;
}
#endif

static const struct {
	const char *name;
	int (*run)(void);
} list[] = { { "forms", forms }, { "storm", storm }, { "signals", signals }, { "many", many }, { "closed", closed },
	{ "vfork", vforked }, { "early", early },
#ifndef HOOKED_STATIC
	{ "names", names },
#endif
	{ "repeat", repeat }, { "direct", direct }, { "plain", plain },
#ifdef __x86_64__
	{ "int80", int80 },
#endif
};

int main(int argc, char **argv)
{
	good.sin_port = bad.sin_port = htons(80);
	inet_pton(AF_INET, "203.0.113.9", &good.sin_addr);
	inet_pton(AF_INET, "203.0.113.10", &bad.sin_addr);
	for (size_t i = 0; argc > 1 && i < sizeof(list) / sizeof(list[0]); i++)
		if (strcmp(argv[1], list[i].name) == 0)
			return list[i].run();
	return 2;
}
