package aws

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// validClientID is the form of a viewer's client id; those of AWS's own begin with AWS_.
// [AWS, ConnectAsViewer]
var validClientID = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,256}$`)

func iceServers(c *call) error {
	var in struct{ ClientId, Service, Username string }
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Service != "" && in.Service != "TURN" || in.ClientId != "" && !validClientID.MatchString(in.ClientId) {
		return errArgument
	}
	arn, err := channelOf(c)
	if err == nil {
		err = c.s.exists(c.s.channels, arn)
	}
	if err != nil {
		return err
	}
	host := "turn.stand-in.example:443"
	return c.reply(map[string]any{"IceServerList": []map[string]any{{
		"Uris":     []string{"turn:" + host + "?transport=udp", "turns:" + host + "?transport=udp", "turns:" + host + "?transport=tcp"},
		"Username": millis(c.s.opts.Now()) + ":" + c.s.give(strings.ToLower(randomText(40))), "Password": c.s.give(randomText(40)), "Ttl": 300,
	}}})
}

// socket is one end of a signalling channel.
type socket struct {
	conn    *websocket.Conn
	channel string // ARN
	client  string // "" for the master
	out     chan []byte
}

// message is what goes over a signalling channel.
type message struct {
	Action            string `json:"action,omitempty"`
	MessageType       string `json:"messageType,omitempty"`
	RecipientClientID string `json:"recipientClientId,omitempty"`
	SenderClientID    string `json:"senderClientId,omitempty"`
	MessagePayload    string `json:"messagePayload"`
}

const maxMessage = 10 << 10

// connect takes a viewer or a master onto a channel, by a presigned address.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	viewer := q.Has("X-Amz-ClientId")
	op := operation{name: "ConnectAsMaster", service: serviceVideo, resource: func(*call) (string, error) {
		arn := q.Get("X-Amz-ChannelARN")
		if arn == "" || len(arn) > 1024 {
			return "", errArgument
		}
		return arn, nil
	}}
	if viewer {
		op.name = "ConnectAsViewer"
	}
	op.serve = func(c *call) error {
		arn, id := q.Get("X-Amz-ChannelARN"), q.Get("X-Amz-ClientId")
		if viewer && (!validClientID.MatchString(id) || strings.HasPrefix(id, "AWS_")) {
			return errArgument
		}
		if err := s.exists(s.channels, arn); err != nil {
			return err
		}
		up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return nil // the upgrader has answered
		}
		s.join(&socket{conn: conn, channel: arn, client: id, out: make(chan []byte, 64)})
		return nil
	}
	s.run(w, r, op)
}

// join serves one end of a channel until it leaves. A second one of the same id takes the
// first one's place.
func (s *Server) join(sock *socket) {
	s.mu.Lock()
	for other := range s.sockets {
		if other.channel == sock.channel && other.client == sock.client {
			_ = other.conn.Close()
			delete(s.sockets, other)
		}
	}
	s.sockets[sock] = struct{}{}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case m := <-sock.out:
				_ = sock.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // writing fails then
				if sock.conn.WriteMessage(websocket.TextMessage, m) != nil {
					return
				}
			}
		}
	}()
	sock.conn.SetReadLimit(maxMessage)
	for {
		var m message
		if err := sock.conn.ReadJSON(&m); err != nil {
			break
		}
		s.pass(sock, m)
	}
	close(done)
	_ = sock.conn.Close()
	s.mu.Lock()
	delete(s.sockets, sock)
	s.mu.Unlock()
}

// pass hands a message on: a viewer's to the master, the master's to the viewer named.
func (s *Server) pass(from *socket, m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := m.RecipientClientID
	if from.client != "" {
		to = "" // the master
	}
	text, err := json.Marshal(message{MessageType: m.Action, SenderClientID: from.client, MessagePayload: m.MessagePayload})
	if err != nil {
		return
	}
	for sock := range s.sockets {
		if sock != from && sock.channel == from.channel && sock.client == to {
			select {
			case sock.out <- text:
			default: // it does not read
			}
		}
	}
}

// Viewers lists the client ids that are on a channel.
func (s *Server) Viewers(arn string) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sock := range s.sockets {
		if sock.channel == arn && sock.client != "" {
			ids = append(ids, sock.client)
		}
	}
	return ids
}
