package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/opticworks/devicecloud/registry"
)

// The few packets of MQTT 3.1.1 that a device of the load generator needs, as raw bytes: a codec would cost more than
// what it measures.

const (
	connack  = 2 << 4
	puback   = 4 << 4
	suback   = 9 << 4
	pingresp = 13 << 4
)

// salt and root are the defaults of DEVICE_ID_SALT and TOPIC_ROOT.
const (
	salt = "opticworks-rs1"
	root = "opticworks"
)

// device is one device of the fleet; everything follows from its number.
type device struct {
	mac    registry.MAC
	id     string
	secret string
}

func deviceAt(i int) device {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(i))
	mac := registry.MAC(fmt.Sprintf("02:00:%02X:%02X:%02X:%02X", n[0], n[1], n[2], n[3]))
	sum := sha256.Sum256([]byte("bench device secret of " + mac))
	return device{mac: mac, id: mac.DeviceID(salt), secret: hex.EncodeToString(sum[:])}
}

func (d device) topic(suffix string) string { return root + "/" + d.id + "/" + suffix }

// connectPacket is a CONNECT as a device sends it: clean session, will on the state topic, keep-alive 60 s.
func (d device) connectPacket() []byte {
	const userName, password, willRetain, willQoS1, will, clean = 0x80, 0x40, 0x20, 0x08, 0x04, 0x02
	body := appendString(nil, "MQTT")
	body = append(body, 4, userName|password|willRetain|willQoS1|will|clean, 0, 60)
	body = appendString(body, d.id)
	body = appendString(body, d.topic("state"))
	body = appendString(body, `{"online":false}`)
	body = appendString(body, d.id)
	body = appendString(body, d.secret)
	return packet(1<<4, body)
}

// subscribePacket asks for everything that the cloud sends to a device.
func (d device) subscribePacket() []byte {
	body := []byte{0, 1}
	for _, suffix := range []string{
		"provision/response", "config/update", "ota/trigger", "diag/request", "command/+",
		"claim/response", "claim/challenge",
	} {
		body = append(appendString(body, d.topic(suffix)), 1)
	}
	return packet(8<<4|2, body)
}

// statePacket is a PUBLISH of QoS 1 with a state message, and where in it the packet id and the digits of uptime_sec
// stand, so that the next message is the same bytes with other numbers.
func (d device) statePacket() (b []byte, idAt, uptimeAt int) {
	const before = `{"online":true,"firmware_version":"1.2.0","uptime_sec":`
	const after = `,"wifi_rssi":-55,"config_version":3,"radar_connected":true,"zone_count":2,"protocol_version":1,"last_seen":"2026-01-15T10:00:00Z"}`
	const uptime = "100000000" // within 32 bits whatever its last eight digits
	body := appendString(nil, d.topic("state"))
	inBody := len(body)
	body = append(body, 0, 1)
	body = append(body, before+uptime+after...)
	b = packet(3<<4|1<<1, body)
	idAt = len(b) - len(body) + inBody
	return b, idAt, idAt + 2 + len(before) + 1
}

// renumber writes the packet id and the uptime of message n into a packet of statePacket.
func renumber(b []byte, idAt, uptimeAt int, n uint32) (id uint16) {
	id = uint16(n%65535) + 1
	binary.BigEndian.PutUint16(b[idAt:], id)
	for i := uptimeAt + 7; i >= uptimeAt; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return id
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// packet puts the fixed header before a body.
func packet(first byte, body []byte) []byte {
	b := []byte{first}
	n := len(body)
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(append(b, byte(n)), body...)
}

var errRefused = errors.New("the server refused")

// expect reads one packet of at most 127 bytes into buf, checks its type, and returns its body.
func expect(r io.Reader, buf []byte, kind byte) ([]byte, error) {
	// Every expected answer has at least two bytes, and nothing else is on its way: a read usually gets it whole.
	n, err := io.ReadAtLeast(r, buf, 2)
	if err != nil {
		return nil, err
	}
	size := 2 + int(buf[1])
	if buf[0]&0xf0 != kind || size > len(buf) || n > size {
		return nil, fmt.Errorf("unexpected packet %x", buf[:n])
	}
	if n < size {
		if _, err := io.ReadFull(r, buf[n:size]); err != nil {
			return nil, err
		}
	}
	return buf[2:size], nil
}
