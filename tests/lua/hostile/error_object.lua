-- expect line 2: table
error({ lattice_problem = true, message = "x" })
