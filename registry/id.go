package registry

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"
)

// NewIDSource makes the ids of append-only rows: they grow with time, are unique
// in a process, and very likely across nodes (10 random bits for each source,
// beside 12 bits of sequence within a millisecond).
func NewIDSource(now func() time.Time) func() int64 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	node := int64(binary.LittleEndian.Uint16(b[:])&0x3ff) << 12
	const epoch = 1767225600000 // 2026-01-01, so that 41 bits of milliseconds last until 2095
	var mu sync.Mutex
	var ms, seq int64
	return func() int64 {
		mu.Lock()
		defer mu.Unlock()
		if t := now().UnixMilli() - epoch; t > ms {
			ms, seq = t, 0
		} else if seq++; seq == 1<<12 {
			ms, seq = ms+1, 0
		}
		return max(ms, 0)<<22 | node | seq
	}
}
