package registry

import "context"

// InstructDevice sends a command of the program's own, which nobody asked for: to end a
// viewer who lost their access. It is a command like any other, with its row, its audit
// and its life, and waits for a device that is not connected; but no limit holds for it and
// a full queue does not keep it out. The domains that call it decide what a device is told.
// The same RequestID again is the same command. Errors: those of [Registry.SendCommand] but
// those of access and of limits.
func (r *Registry) InstructDevice(ctx context.Context, deviceID string, req CommandRequest) (c Command, duplicate bool, err error) {
	return r.SendCommand(ctx, System(), deviceID, req)
}
