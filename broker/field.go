package broker

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// fields walks over the fields of a packet. After the first field that is cut short or malformed, bad says why and
// every further field is empty.
type fields struct {
	b   []byte
	bad string
}

func (f *fields) fail(why string) {
	if f.bad == "" {
		f.bad = why
	}
	f.b = nil
}

// err is the malformed packet that was found, if any.
func (f *fields) err() error {
	if f.bad == "" {
		return nil
	}
	return malformed(f.bad)
}

// end is err, and an error when fields are left over.
func (f *fields) end() error {
	if f.bad == "" && len(f.b) > 0 {
		f.fail("bytes left over")
	}
	return f.err()
}

func (f *fields) take(n int) []byte {
	if f.bad != "" || len(f.b) < n {
		f.fail("packet is cut short")
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) byte() byte {
	if v := f.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (f *fields) uint16() uint16 {
	if v := f.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (f *fields) uint32() uint32 {
	if v := f.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// varint is a variable byte integer of at most four bytes in its shortest form [MQTT-1.5.5-1].
func (f *fields) varint() int {
	n := 0
	for i := range 4 {
		v := f.byte()
		n |= int(v&127) << (7 * i)
		if v&128 == 0 {
			if i > 0 && v == 0 {
				f.fail("variable byte integer is not in its shortest form")
			}
			return n
		}
	}
	f.fail("variable byte integer is longer than four bytes")
	return 0
}

// binary is binary data with its length in two bytes before it.
func (f *fields) binary() []byte { return f.take(int(f.uint16())) }

// text is a UTF-8 string: well-formed, so no surrogates [MQTT-1.5.4-1], and without U+0000 [MQTT-1.5.4-2].
func (f *fields) text() []byte {
	s := f.binary()
	if !utf8.Valid(s) || bytes.IndexByte(s, 0) >= 0 {
		f.fail("string is not well-formed UTF-8")
		return nil
	}
	return s
}
