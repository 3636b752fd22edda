/* The whole of the `lattice` command for main.c: a TRUSTED state that runs lua/lattice/cli. */
#ifndef LAT_LUA_HOST_H
#define LAT_LUA_HOST_H

/* Returns the exit status: the command's, or 1 with a message on stderr when the command itself broke. */
int lat_host_main(int argc, char **argv);

#endif
