package httpapi

import (
	"encoding/base64"
	"encoding/binary"
)

const (
	defaultLimit = 50
	maxLimit     = 200
)

// list names a kind of list, so that a cursor of one is not taken by another.
type list byte

const (
	listDevices      list = 'd'
	listAdminDevices list = 'a'
	listConnections  list = 'c'
	listEvents       list = 'e'
	listAudit        list = 'u'
	listSessions     list = 's'
	listStaff        list = 't'
	listUsers        list = 'p'
	listServices     list = 'v'
	listInvitations  list = 'i'
	listCommands     list = 'm'
	listSIMs         list = 'k'
	listPlans        list = 'l'
	listPurchases    list = 'b'
	listReleases     list = 'r'
	listRollouts     list = 'o'
	listUpdates      list = 'f'
	pageWebhooks     list = 'w'
	pageDeliveries   list = 'y'
)

// cursorLen is the length of a cursor, in characters.
const cursorLen = 12

// cursor is the place behind a row in a list: the row's key, so that the next
// page is one index range however deep it lies.
func (l list) cursor(key int64) string {
	var b [9]byte
	b[0] = byte(l)
	binary.BigEndian.PutUint64(b[1:], uint64(key))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// parse reads a cursor; "" is the beginning, 0.
func (l list) parse(s string) (key int64, err error) {
	if s == "" {
		return 0, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(s) != cursorLen || len(b) != 9 || b[0] != byte(l) { // the decoder skips line breaks
		return 0, invalid("cursor is not a cursor of this list.")
	}
	if key = int64(binary.BigEndian.Uint64(b[1:])); key <= 0 {
		return 0, invalid("cursor is not a cursor of this list.")
	}
	return key, nil
}

// textCursor is cursor for rows whose key is a text.
func (l list) textCursor(key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(rune(l)) + key))
}

// parseText reads a text cursor; "" is the beginning.
func (l list) parseText(s string) (key string, err error) {
	if s == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 2 || len(b) > maxParam || b[0] != byte(l) || !saneID(string(b[1:])) {
		return "", invalid("cursor is not a cursor of this list.")
	}
	return string(b[1:]), nil
}

// textPage reads limit and text cursor.
func (p params) textPage(l list) (key string, limit int, err error) {
	if limit, err = p.number("limit", defaultLimit, 1, maxLimit); err != nil {
		return "", 0, err
	}
	key, err = l.parseText(p.Get("cursor"))
	return key, limit, err
}

// nextText is next for rows whose key is a text.
func nextText[T any](l list, rows []T, limit int, key func(T) string) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	return rows, l.textCursor(key(rows[limit-1]))
}

// page reads limit and cursor.
func (p params) page(l list) (key int64, limit int, err error) {
	if limit, err = p.number("limit", defaultLimit, 1, maxLimit); err != nil {
		return 0, 0, err
	}
	key, err = l.parse(p.Get("cursor"))
	return key, limit, err
}

// next cuts the row that was only read to see whether there is one, and gives the
// cursor of the next page, "" at the end.
func next[T any](l list, rows []T, limit int, key func(T) int64) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	return rows, l.cursor(key(rows[limit-1]))
}

// render makes the answer's items; never nil, so that an empty list is [].
func render[T, U any](rows []T, f func(T) U) []U {
	out := make([]U, len(rows))
	for i, row := range rows {
		out[i] = f(row)
	}
	return out
}
