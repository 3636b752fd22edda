-- The handler is asked about the first connection. Its answer holds for the run, for at most two seconds at a time: until
-- then nobody asks again, and in kernel mode nothing of Lattice runs for the connections in between.
policy "promote-once"

ask "tcp to host port PORT" -- the script `run` puts a port here

local questions = 0
on("ask", function(flow)
  questions = questions + 1
  return "allow", { scope = "run", ttl = 2, reason = ("question %d"):format(questions) }
end)
