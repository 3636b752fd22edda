/* oom N|N- PROGRAM [ARGS]: runs the program so that its N-th allocation fails, or that and all later ones.
 *
 * It preloads preload/oom_preload.c. Programs that this one executes are left alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char library[4096];
	ssize_t n = readlink("/proc/self/exe", library, sizeof(library) - 16);

	if (argc < 3 || n < 0)
		return 2;
	strcpy(library + n, "_preload.so");
	setenv("LD_PRELOAD", library, 1);
	setenv("OOM_AT", argv[1], 1);
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 2;
}
