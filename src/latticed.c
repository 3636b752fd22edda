/* The `latticed` agent. What it does is in lua/lattice/agent. */
#include "lua/host.h"

int main(int argc, char **argv)
{
	return lat_host_main("lattice.agent", argc, argv);
}
