package registry

// How large a packet to a device may be, in bytes, with its topic and everything. MQTT
// 3.1.1 has no way to say so, so firmware that has more room than most says it when it
// provisions; what an MQTT 5 client says of its connection can only lower that.
const (
	// DefaultPacket is what an ESP32 takes as its firmware is usually built, and the least
	// that a device can declare. [contracts J]
	DefaultPacket = 1 << 10
	// LargestPacket is the most that is sent whatever a device declares: no more than is
	// taken from one.
	LargestPacket = maxPayload
)

const (
	// packetReserve is what of a packet with a command is not payload: header, topic, and
	// the properties of MQTT 5. By default it leaves 768 bytes. [contracts G.2]
	packetReserve = 256
	// envelopeReserve is what of a command's payload is not its parameters.
	envelopeReserve = 256
)

// PacketLimit is the largest packet that a device takes over a connection, in bytes with
// topic and header: what is to be sent in one has to fit. s may be nil.
func (d Device) PacketLimit(s *Session) int {
	limit := max(DefaultPacket, d.MaxPacket)
	if s != nil && s.MaxPacket > 0 {
		limit = min(limit, s.MaxPacket)
	}
	return limit
}

// session is the connection over which a device takes commands; nil without one.
func (d *dispatcher) session(deviceID string) *Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lanes[deviceID]; l != nil {
		return l.session
	}
	return nil
}
