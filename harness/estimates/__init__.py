"""What a stage would take on other hardware: operations counted, data sheets, a roofline and its errors."""
