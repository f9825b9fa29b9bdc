-- Wireshark/tshark dissector for the security options of docs/wire-format.md (a post-dissector: Wireshark itself
-- dissects Geneve). With a key log it decrypts what was sealed; tags are not verified here.
--
--   tshark -X lua_script:tools/geneve_security.lua -r capture.pcap -V -Y geneve_security
--   GENEVE_KEYLOG=all.keylog tshark -X lua_script:tools/geneve_security.lua ...
--
-- The key log is what NVEs write where a scenario says "key_log: true"; put several into one file with cat.

local proto = Proto("geneve_security", "Geneve security options")
proto.prefs.keylog = Pref.string("Key log file", os.getenv("GENEVE_KEYLOG") or "", "Lines 'GSA spi=...' of the NVEs")

local CLASS = 0xff60
local NAMES = {
  [0x01] = "for a transit device", [0x81] = "for the egress NVE or a multicast group", [0x04] = "for a group on the path",
}
local f = {
  audience = ProtoField.string("geneve_security.audience", "Audience"),
  spi = ProtoField.uint32("geneve_security.spi", "SPI", base.HEX),
  sequence = ProtoField.uint64("geneve_security.sequence", "Sequence number"),
  flow = ProtoField.uint32("geneve_security.flow", "Flow id"),
  inner_length = ProtoField.uint16("geneve_security.inner_length", "Inner length"),
  sealed = ProtoField.bytes("geneve_security.sealed", "Sealed part"),
  tag = ProtoField.bytes("geneve_security.tag", "Tag (not verified)"),
  signature = ProtoField.bytes("geneve_security.signature", "Signature"),
  salt = ProtoField.bytes("geneve_security.salt", "Batch salt"),
  index = ProtoField.uint8("geneve_security.index", "Index in the batch"),
  depth = ProtoField.uint8("geneve_security.depth", "Depth of the tree"),
  path = ProtoField.bytes("geneve_security.path", "Path to the root"),
  telemetry_flow = ProtoField.uint32("geneve_security.telemetry.flow", "Telemetry flow label", base.HEX),
  telemetry_sequence = ProtoField.uint64("geneve_security.telemetry.sequence", "Telemetry sequence number"),
  group_source = ProtoField.uint16("geneve_security.group.source", "Security group of the sender"),
  group_destination = ProtoField.uint16("geneve_security.group.destination", "Security group of the receiver"),
  header = ProtoField.bytes("geneve_security.true_header", "True base header (revealed fields)"),
  vni = ProtoField.uint24("geneve_security.true_vni", "True VNI"),
  hidden = ProtoField.bytes("geneve_security.hidden_option", "Hidden option"),
  dummy = ProtoField.bool("geneve_security.dummy", "Dummy"),
  padding = ProtoField.uint16("geneve_security.padding", "Padding bytes"),
}
local fields = {}
for _, field in pairs(f) do fields[#fields + 1] = field end
proto.fields = fields

local note = ProtoExpert.new("geneve_security.no_key", "No key in the key log", expert.group.UNDECODED, expert.severity.NOTE)
proto.experts = { note }

-- Key log ------------------------------------------------------------------------------------------------------

local keys, loaded = {}, nil

local function unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function load_keys()
  local name = proto.prefs.keylog
  if loaded == name then return end
  loaded, keys = name, {}
  if name == nil or name == "" then return end
  local file = io.open(name, "r")
  if not file then return end
  for line in file:lines() do
    if line:sub(1, 4) == "GSA " then
      local entry = {}
      for key, value in line:gmatch("(%w[%w_]*)=(%S+)") do entry[key] = value end
      if entry.spi and entry.key and entry.salt then
        entry.secret, entry.nonce = unhex(entry.key), unhex(entry.salt)
        keys[entry.spi .. "/" .. (entry.flow or "-")] = entry
        keys[entry.spi] = keys[entry.spi] or entry
      end
    end
  end
  file:close()
end

-- Ciphers: AES in counter mode as GCM uses it, and ChaCha20 (RFC 8439) --------------------------------------------

local band, bor, bxor, lshift, rshift = bit32.band, bit32.bor, bit32.bxor, bit32.lshift, bit32.rshift
local lrotate = bit32.lrotate

local sbox = {}
do
  local p, q = 1, 1
  repeat
    p = band(bxor(p, lshift(p, 1), band(p, 0x80) ~= 0 and 0x1b or 0), 0xff)
    q = bxor(q, lshift(q, 1)); q = bxor(q, lshift(q, 2)); q = band(bxor(q, lshift(q, 4)), 0xff)
    if band(q, 0x80) ~= 0 then q = bxor(q, 0x09) end
    local x = q
    for shift = 1, 4 do x = bxor(x, band(bor(lshift(q, shift), rshift(q, 8 - shift)), 0xff)) end
    sbox[p] = bxor(x, 0x63)
  until p == 1
  sbox[0] = 0x63
end

local function xtime(value) return band(bxor(lshift(value, 1), band(value, 0x80) ~= 0 and 0x1b or 0), 0xff) end

local function expand(key)
  local words, count, rcon = {}, #key / 4, 1
  for i = 0, count - 1 do words[i] = { key:byte(4 * i + 1, 4 * i + 4) } end
  for i = count, 4 * (count + 7) - 1 do
    local word = { words[i - 1][1], words[i - 1][2], words[i - 1][3], words[i - 1][4] }
    if i % count == 0 then
      word = { bxor(sbox[word[2]], rcon), sbox[word[3]], sbox[word[4]], sbox[word[1]] }
      rcon = xtime(rcon)
    elseif count > 6 and i % count == 4 then
      for n = 1, 4 do word[n] = sbox[word[n]] end
    end
    for n = 1, 4 do word[n] = bxor(word[n], words[i - count][n]) end
    words[i] = word
  end
  return words, count + 6
end

local function aes_block(words, rounds, block)
  local s = { block:byte(1, 16) }
  local function add(round)
    for c = 0, 3 do for r = 1, 4 do s[4 * c + r] = bxor(s[4 * c + r], words[4 * round + c][r]) end end
  end
  add(0)
  for round = 1, rounds do
    local t = {}
    for c = 0, 3 do for r = 0, 3 do t[4 * c + r + 1] = sbox[s[4 * ((c + r) % 4) + r + 1]] end end
    if round < rounds then
      for c = 0, 3 do
        local a, b, d, e = t[4 * c + 1], t[4 * c + 2], t[4 * c + 3], t[4 * c + 4]
        local all = bxor(a, b, d, e)
        t[4 * c + 1] = bxor(a, all, xtime(bxor(a, b)))
        t[4 * c + 2] = bxor(b, all, xtime(bxor(b, d)))
        t[4 * c + 3] = bxor(d, all, xtime(bxor(d, e)))
        t[4 * c + 4] = bxor(e, all, xtime(bxor(e, a)))
      end
    end
    s = t
    add(round)
  end
  return string.char(table.unpack(s))
end

local function big32(number)
  return string.char(rshift(number, 24), band(rshift(number, 16), 255), band(rshift(number, 8), 255), band(number, 255))
end

local function aes_stream(key, nonce)
  local words, rounds = expand(key)
  return function(counter) return aes_block(words, rounds, nonce .. big32(counter + 1)) end, 16
end

local function little32(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  return a + b * 256 + c * 65536 + d * 16777216
end

local function chacha_stream(key, nonce)
  local base_state = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }
  for i = 0, 7 do base_state[5 + i] = little32(key, 4 * i + 1) end
  for i = 0, 2 do base_state[14 + i] = little32(nonce, 4 * i + 1) end
  local function quarter(x, a, b, c, d)
    x[a] = band(x[a] + x[b], 0xffffffff); x[d] = lrotate(bxor(x[d], x[a]), 16)
    x[c] = band(x[c] + x[d], 0xffffffff); x[b] = lrotate(bxor(x[b], x[c]), 12)
    x[a] = band(x[a] + x[b], 0xffffffff); x[d] = lrotate(bxor(x[d], x[a]), 8)
    x[c] = band(x[c] + x[d], 0xffffffff); x[b] = lrotate(bxor(x[b], x[c]), 7)
  end
  return function(counter)
    base_state[13] = counter
    local x = {}
    for i = 1, 16 do x[i] = base_state[i] end
    for _ = 1, 10 do
      quarter(x, 1, 5, 9, 13); quarter(x, 2, 6, 10, 14); quarter(x, 3, 7, 11, 15); quarter(x, 4, 8, 12, 16)
      quarter(x, 1, 6, 11, 16); quarter(x, 2, 7, 12, 13); quarter(x, 3, 8, 9, 14); quarter(x, 4, 5, 10, 15)
    end
    local out = {}
    for i = 1, 16 do
      local word = band(x[i] + base_state[i], 0xffffffff)
      out[i] = string.char(band(word, 255), band(rshift(word, 8), 255), band(rshift(word, 16), 255), rshift(word, 24))
    end
    return table.concat(out)
  end, 64
end

local function decrypt(entry, sequence, ciphertext)
  local make = entry.aead:sub(1, 3) == "aes" and aes_stream or chacha_stream
  local stream, size = make(entry.secret, entry.nonce .. sequence)
  local out = {}
  for start = 1, #ciphertext, size do
    -- The first block of either stream makes the tag; data starts with the second.
    local pad, piece = stream((start - 1) / size + 1), ciphertext:sub(start, start + size - 1)
    local bytes = { piece:byte(1, #piece) }
    for i = 1, #bytes do bytes[i] = string.char(bxor(bytes[i], pad:byte(i))) end
    out[#out + 1] = table.concat(bytes)
  end
  return table.concat(out)
end

-- Dissection ---------------------------------------------------------------------------------------------------

local function tvb_of(text, name)
  local bytes = ByteArray.new()
  bytes:set_size(#text)
  for i = 1, #text do bytes:set_index(i - 1, text:byte(i)) end
  return bytes:tvb(name)
end

local function show_sealed(tree, entry, plain)
  local at = 0
  if entry.sealed_header and not entry.sealed_header:match("^0+$") and #plain >= 8 then
    local header = tvb_of(plain:sub(1, 8), "True base header")
    tree:add(f.header, header())
    tree:add(f.vni, header(4, 3))
    at = 8
  end
  while at + 4 <= #plain do
    local size = 4 + band(plain:byte(at + 4), 31) * 4
    local option = plain:sub(at + 1, at + size)
    local data = tvb_of(option, "Hidden option")
    local item = tree:add(f.hidden, data())
    item:append_text(string.format(" class 0x%04x type 0x%02x", data(0, 2):uint(), data(2, 1):uint()))
    at = at + size
  end
end

local function show_payload(tree, pinfo, root, entry, plain, rest)
  local frame = plain .. rest
  if entry.padded == "1" and #frame >= 2 then
    local size = frame:byte(1) * 256 + frame:byte(2)
    tree:add(f.dummy, size == 0)
    tree:add(f.padding, #frame - 2 - size)
    frame = frame:sub(3, 2 + size)
  end
  if #frame >= 14 then
    Dissector.get("eth_withoutfcs"):call(tvb_of(frame, "Decrypted inner frame"), pinfo, root)
  end
end

local function security(buffer, at, size, kind, payload, pinfo, root, tree)
  local option = buffer(at, size)
  local spi = buffer(at + 4, 4):uint()
  local name = string.format("0x%08x", spi)
  local branch = tree:add(proto, option, string.format("Security option %s, SPI %s", NAMES[kind], name))
  branch:add(f.audience, option, NAMES[kind])
  branch:add(f.spi, buffer(at + 4, 4))
  branch:add(f.sequence, buffer(at + 8, 8))
  local entry, head = keys[name], 16
  if entry then
    head = tonumber(entry.head) or 16
    local word = at + 16
    if entry.flow and entry.flow ~= "-" then
      branch:add(f.flow, buffer(word, 4))
      entry = keys[name .. "/" .. buffer(word, 4):bytes():tohex():lower()]
      word = word + 4
    end
    local length = nil
    if word < at + head then
      branch:add(f.inner_length, buffer(word, 2))
      length = buffer(word, 2):uint()
    end
    if entry and size >= head + 16 then
      local sealed_size = size - head - 16
      local inner = payload:raw()
      local cut = entry.inner == "all" and #inner or (entry.inner == "headers" and math.min(length or 0, #inner)) or 0
      local sealed = sealed_size > 0 and buffer(at + head, sealed_size):bytes():raw() or ""
      local plain = decrypt(entry, buffer(at + 8, 8):bytes():raw(), sealed .. inner:sub(1, cut))
      if sealed_size > 0 then
        branch:add(f.sealed, buffer(at + head, sealed_size))
        show_sealed(branch, entry, plain:sub(1, sealed_size))
      end
      branch:add(f.tag, buffer(at + size - 16, 16))
      if cut > 0 then show_payload(branch, pinfo, root, entry, plain:sub(sealed_size + 1), inner:sub(cut + 1)) end
      return
    end
  end
  branch:add_proto_expert_info(note)
  if size > 32 then branch:add(f.sealed, buffer(at + 16, size - 32)):append_text(" (with words of the head, if any)") end
  branch:add(f.tag, buffer(at + size - 16, 16))
end

local function signature(buffer, at, size, tree)
  local branch = tree:add(proto, buffer(at, size), "Proof of the sending NVE")
  branch:add(f.signature, buffer(at + 4, 64))
  if size >= 80 then
    branch:add(f.salt, buffer(at + 68, 8))
    branch:add(f.index, buffer(at + 76, 1))
    branch:add(f.depth, buffer(at + 77, 1))
    if size > 80 then branch:add(f.path, buffer(at + 80, size - 80)) end
  end
end

local port_field, payload_field = Field.new("udp.dstport"), Field.new("udp.payload")

function proto.dissector(buffer, pinfo, root)
  load_keys()
  local ports, found = { port_field() }, { payload_field() }
  if #ports == 0 or ports[1].value ~= 6081 then return end
  -- Without udp.payload (Wireshark shows it only where asked) the packet starts behind the first UDP header.
  local start = found[1] and found[1].offset or ports[1].offset + 6
  if buffer:len() < start + 8 then return end
  local packet = buffer(start):tvb()
  local stop = 8 + band(packet(0, 1):uint(), 63) * 4
  if packet:len() < stop then return end
  local payload = packet:len() > stop and packet(stop):bytes() or ByteArray.new()
  local tree, at = nil, 8
  while at + 4 <= stop do
    local class, kind = packet(at, 2):uint(), packet(at + 2, 1):uint()
    local size = 4 + band(packet(at + 3, 1):uint(), 31) * 4
    if at + size > stop then return end
    if class == CLASS then
      tree = tree or root:add(proto, packet(8, stop - 8))
      if NAMES[kind] and size >= 32 then
        security(packet, at, size, kind, payload, pinfo, root, tree)
      elseif kind == 0x85 and size >= 68 then
        signature(packet, at, size, tree)
      elseif kind == 0x02 and size == 16 then
        tree:add(f.telemetry_flow, packet(at + 4, 4))
        tree:add(f.telemetry_sequence, packet(at + 8, 8))
      elseif kind == 0x06 and size == 8 then
        tree:add(f.group_source, packet(at + 4, 2))
        tree:add(f.group_destination, packet(at + 6, 2))
      end
    end
    at = at + size
  end
end

register_postdissector(proto)
