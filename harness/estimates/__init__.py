"""What a stage would take on hardware that is not here: operations counted, data sheets, a roofline and its errors."""
