package broker

// judgeFilters judges a SUBSCRIBE or UNSUBSCRIBE. Above all, each filter of a SUBSCRIBE must be followed by its options
// byte: mochi reads it without looking whether it is there, and the panic would end the process.
func judgeFilters(f *fields, subscribe, v5 bool) error {
	if f.uint16() == 0 {
		f.fail("packet id 0") // [MQTT-2.2.1-3]
	}
	if v5 {
		place := inUnsubscribe
		if subscribe {
			place = inSubscribe
		}
		if err := f.properties(place); err != nil {
			return err
		}
	}
	if f.bad == "" && len(f.b) == 0 {
		return violation("no topic filter") // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
	}
	for len(f.b) > 0 {
		if len(f.text()) == 0 {
			f.fail("empty topic filter") // [MQTT-4.7.3-1]
		}
		if subscribe {
			if err := judgeOptions(f, v5); err != nil {
				return err
			}
		}
	}
	return f.end()
}

// judgeOptions judges the byte behind a topic filter: QoS, and in MQTT 5 three more options.
func judgeOptions(f *fields, v5 bool) error {
	o := f.byte()
	switch {
	case o&3 == 3:
		f.fail("subscription with QoS 3") // [MQTT-3.8.3-4] of 3.1.1
	case o&0xc0 != 0 || (!v5 && o&0xfc != 0):
		f.fail("reserved bits of subscription options") // [MQTT-3.8.3-5]
	case o&0x30 == 0x30:
		return violation("retain handling 3")
	}
	return nil
}

// judgeAck judges a PUBACK, PUBREC, PUBREL or PUBCOMP.
func judgeAck(f *fields) error {
	if f.uint16() == 0 {
		f.fail("packet id 0")
	}
	return judgeReason(f, inAck)
}

// judgeDisconnect judges a DISCONNECT.
func judgeDisconnect(f *fields) error { return judgeReason(f, inDisconnect) }

// judgeReason judges what may be left out of an MQTT 5 packet: a reason code, and properties behind it.
func judgeReason(f *fields, place place) error {
	if len(f.b) > 0 {
		f.byte()
	}
	if len(f.b) > 0 {
		if err := f.properties(place); err != nil {
			return err
		}
	}
	return f.end()
}
