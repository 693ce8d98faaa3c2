-- What is wrong with the data of one registration or entity: names and reasons in turn. It ends the reply.
local SICK = {}

-- What the server refuses to everybody: that is not the fault of one.
local REFUSED = {'OOM ', 'MISCONF ', 'READONLY ', 'NOREPLICAS ', 'LOADING ', 'MASTERDOWN ', 'CLUSTERDOWN ', 'NOAUTH ', 'NOPERM ', 'CROSSSLOT ', 'non local key'}

-- Notes an error that concerns only what is named; raises it when it is the server's refusal.
local function note_sick(name, fault)
  local why = type(fault) == 'table' and fault.err or tostring(fault)
  for _, text in ipairs(REFUSED) do
    if string.find(why, text, 1, true) then error(fault, 0) end
  end
  SICK[#SICK + 1] = name
  SICK[#SICK + 1] = why
end

-- Does f, which concerns only what is named: an error in it is noted, and keeps nothing from the others. Returns whether it went well, and what f returns.
local function alone(name, f, ...)
  local ok, a, b = pcall(f, ...)
  if ok then return true, a, b end
  note_sick(name, a)
  return false
end
