/* The `lattice` command. What it does is in lua/lattice/cli. */
#include "lua/host.h"

int main(int argc, char **argv)
{
	return lat_host_main("lattice.cli", argc, argv);
}
