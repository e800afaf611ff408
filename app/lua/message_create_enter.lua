-- steps: message_create, message_undo, queue_enter
-- Creates a message and puts it in its account's queue at once, where one partition holds both. ARGV: number of
-- message_create's arguments, those, queue_enter's (created_ms is filled in). Returns what message_create does, or
-- {'full'} when the queue refused it: nothing remains then.
local count = tonumber(ARGV[1])
local create, enter = {unpack(ARGV, 2, count + 1)}, {unpack(ARGV, count + 2)}
local reply = message_create(create)
if reply[1] ~= 'created' then return reply end
enter[3] = reply[2]
if queue_enter(enter) == 1 then return reply end
message_undo({create[1], create[2]})
return {'full'}
